//! Outputs as a recording knows them: by kind and digest.

use std::fmt::{self, Write as _};

use ginnel_forward::Command;
use ginnel_tunnel::Established;

use super::coded::Coded;
use crate::io::Output;

/// An output by kind and digest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OutputDigest {
    kind: u8,
    digest: u64,
}

impl OutputDigest {
    /// The digest of an output.
    pub fn of(output: &Output) -> Self {
        let mut hash = Fnv::new();
        let kind = match output {
            Output::Forward(command) => {
                hash.command(command);
                0
            }
            Output::WriteServer { server, bytes } => {
                hash.text(format_args!("{server:?}"));
                hash.bytes(bytes);
                4
            }
            Output::Persist(bytes) => {
                hash.bytes(bytes);
                8
            }
            Output::OpenSocket { .. } => hash.plain(1, output),
            Output::CloseSocket(_) => hash.plain(2, output),
            Output::ConnectServer { .. } => hash.plain(3, output),
            Output::DisconnectServer(_) => hash.plain(5, output),
            Output::Tun(_) => hash.plain(6, output),
            Output::Names(_) => hash.plain(7, output),
            Output::StoreEntries { .. } => hash.plain(9, output),
            Output::StoreSnapshot { .. } => hash.plain(10, output),
            Output::ForgetLog(_) => hash.plain(11, output),
            Output::Notice { .. } => hash.plain(12, output),
            Output::Reply { .. } => hash.plain(13, output),
        };
        Self { kind, digest: hash.0 }
    }
}

impl fmt::Debug for OutputDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for OutputDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = KINDS.get(usize::from(self.kind)).copied().unwrap_or("an output of another version");
        write!(f, "{name} {:016x}", self.digest)
    }
}

impl Coded for OutputDigest {
    fn put(&self, out: &mut Vec<u8>) {
        self.kind.put(out);
        self.digest.put(out);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        Some(Self { kind: Coded::take(from)?, digest: Coded::take(from)? })
    }
}

/// The 64-bit FNV-1a hash: it tells what differs by accident, and needs to withstand nobody.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn text(&mut self, text: fmt::Arguments<'_>) {
        self.write_fmt(text).expect("hashing takes every text");
    }

    /// An output whose words say everything.
    fn plain(&mut self, kind: u8, output: &Output) -> u8 {
        self.text(format_args!("{output:?}"));
        kind
    }

    /// A command: its words leave keys and payloads out.
    fn command(&mut self, command: &Command) {
        self.text(format_args!("{command:?}"));
        match command {
            Command::AddPeer { allowed, roam, persistent_keepalive, .. } => {
                self.text(format_args!("{allowed:?} {roam:?} {persistent_keepalive:?}"));
            }
            Command::Install { established, .. } => {
                let Established { keys: _, local_index: _, remote_index, suite, side, psk_id } = established;
                self.text(format_args!("{remote_index:?} {suite:?} {side:?} {psk_id}"));
            }
            Command::SealControl { plaintext: bytes, .. }
            | Command::Send { bytes, .. }
            | Command::Inject { bytes, .. } => self.bytes(bytes),
            Command::SetOwn { .. }
            | Command::RemovePeer { .. }
            | Command::Forget { .. }
            | Command::SetPath { .. }
            | Command::SetRelay { .. }
            | Command::RemoveRelay { .. }
            | Command::BindChannel { .. }
            | Command::UnbindChannel { .. }
            | Command::SetShields(_)
            | Command::SetKeys(_) => {}
        }
    }
}

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes(text.as_bytes());
        Ok(())
    }
}

const KINDS: [&str; 14] = [
    "Forward",
    "OpenSocket",
    "CloseSocket",
    "ConnectServer",
    "WriteServer",
    "DisconnectServer",
    "Tun",
    "Names",
    "Persist",
    "StoreEntries",
    "StoreSnapshot",
    "ForgetLog",
    "Notice",
    "Reply",
];
