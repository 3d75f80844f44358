//! The configuration file of `ginneld`: TOML, strict, with every error naming file, line and remedy.
//!
//! ```toml
//! [interface]
//! private_key_file = "/etc/ginnel/private.key"   # base64, as `wg genkey` writes it; needed for [[peer]]
//! addresses = ["10.9.0.1/24"]
//! listen_port = 51820                            # random and kept when left out
//! mtu = 1280
//!
//! [[peer]]
//! name = "router"
//! public_key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
//! preshared_key_file = "/etc/ginnel/router.psk"
//! endpoint = "vpn.example.com:51820"
//! allowed_ips = ["10.9.0.0/24"]
//! persistent_keepalive = 25                      # seconds
//! kind = "wireguard"                             # or "ginnel"
//!
//! [names]
//! write_hosts = true                             # names of peers in the hosts file
//! hosts_file = "/etc/hosts"
//!
//! [control]
//! admin_group = "ginnel-admin"                   # members may change the network
//! ```
//!
//! `[debug]` holds settings that only tests need and is refused without `--test-mode`.

use std::fmt;
use std::fs;
use std::io::Read as _;
use std::net::IpAddr;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64;
use ginnel_local_api::nearest;
use serde::Deserialize;
use toml::Spanned;
use toml::de::DeTable;
use zeroize::Zeroizing;

use crate::netlink::masked;

/// The configuration as read and checked.
#[derive(Debug, Default)]
pub struct Config {
    /// This machine's end.
    pub interface: Interface,
    /// Peers that the file names.
    pub peers: Vec<Peer>,
    /// What is done with peers' names.
    pub names: Names,
    /// Who may use the control socket.
    pub control: Control,
    /// What only tests set.
    pub debug: Debug,
    /// What is allowed but deserves a look, in sentences.
    pub warnings: Vec<String>,
}

/// This machine's end.
#[derive(Debug, Default)]
pub struct Interface {
    /// X25519 private key for the peers that the file names.
    pub private_key: Option<Key>,
    /// Addresses with the lengths of their prefixes.
    pub addresses: Vec<(IpAddr, u8)>,
    /// UDP port.
    pub listen_port: Option<u16>,
    /// MTU in bytes, 1,280 at least.
    pub mtu: Option<u16>,
}

/// A peer that the file names.
#[derive(Debug)]
pub struct Peer {
    /// Its name, unique in the file.
    pub name: String,
    /// Its X25519 public key, unique in the file.
    pub public_key: [u8; 32],
    /// The preshared key with it.
    pub preshared_key: Option<Key>,
    /// Where it is reached, as `host:port`; the host may be a name.
    pub endpoint: Option<String>,
    /// What is routed to it and accepted from it.
    pub allowed_ips: Vec<(IpAddr, u8)>,
    /// How often something is sent to keep a mapping open.
    pub persistent_keepalive: Option<Duration>,
    /// What runs there.
    pub kind: PeerKind,
}

/// What runs at the other end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerKind {
    /// Stock WireGuard.
    #[default]
    Wireguard,
    /// ginneld.
    Ginnel,
}

/// What is done with peers' names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Names {
    /// Whether they are written to the hosts file.
    pub write_hosts: bool,
    /// The hosts file.
    pub hosts_file: PathBuf,
}

impl Default for Names {
    fn default() -> Self {
        Self { write_hosts: true, hosts_file: PathBuf::from("/etc/hosts") }
    }
}

/// Who may use the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Control {
    /// The group whose members may change the network.
    pub admin_group: String,
}

impl Default for Control {
    fn default() -> Self {
        Self { admin_group: "ginnel-admin".to_owned() }
    }
}

/// What only tests set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Debug {
    /// Age in seconds at which a session is replaced.
    pub rekey_after_seconds: Option<u64>,
    /// Whether direct paths are left aside so that everything takes the relay.
    pub relay_only: bool,
}

/// A secret key of 32 bytes, erased when dropped and hidden from `Debug`.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; 32]>);

impl Key {
    /// The bytes.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Whether settings for tests are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `[debug]` is refused.
    Normal,
    /// `[debug]` is accepted: `--test-mode` was given.
    Test,
}

/// What is wrong with the file: where, what, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}{}", .hint.as_deref().map(|hint| format!(". {hint}")).unwrap_or_default())]
pub struct ConfigError {
    /// `file` or `file:line`.
    pub place: String,
    /// The cause.
    pub message: String,
    /// The remedy.
    pub hint: Option<String>,
}

impl Config {
    /// Reads and checks the file at `path`, and the key files that it names; relative ones are beside it.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn load(path: &Path, mode: Mode) -> Result<Self, ConfigError> {
        let place = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|error| ConfigError {
            place: place.clone(),
            message: format!("cannot be read: {error}"),
            hint: Some("Name the file with --config".to_owned()),
        })?;
        Self::parse(path, &text, mode)
    }

    fn parse(path: &Path, text: &str, mode: Mode) -> Result<Self, ConfigError> {
        let source = Source { path, text };
        let table = DeTable::parse(text).map_err(|error| source.syntax(&error))?;
        check_keys(&source, table.get_ref(), mode)?;
        let file: File = toml::from_str(text).map_err(|error| source.syntax(&error))?;
        let mut warnings = Vec::new();
        let interface = source.interface(file.interface, &mut warnings)?;
        let mut peers: Vec<Peer> = Vec::new();
        for peer in file.peer {
            let name_span = peer.name.span();
            let key_span = peer.public_key.span();
            let peer = source.peer(peer, &mut warnings)?;
            if peers.iter().any(|other| other.name == peer.name) {
                return Err(source.error(
                    name_span,
                    format!("another peer is named {}", peer.name),
                    "Names must differ",
                ));
            }
            if peers.iter().any(|other| other.public_key == peer.public_key) {
                return Err(source.error(key_span, "another peer has this public key".to_owned(), "Keys must differ"));
            }
            if interface.private_key.is_none() {
                let hint = "Make one with `wg genkey` and name its file as private_key_file in [interface]";
                return Err(source.error(name_span, "a peer needs a private key on this side".to_owned(), hint));
            }
            peers.push(peer);
        }
        Ok(Self { interface, peers, names: file.names, control: file.control, debug: file.debug, warnings })
    }
}

/// The file as serde reads it; keys were checked before.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    interface: RawInterface,
    #[serde(default)]
    peer: Vec<RawPeer>,
    #[serde(default)]
    names: Names,
    #[serde(default)]
    control: Control,
    #[serde(default)]
    debug: Debug,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawInterface {
    private_key_file: Option<Spanned<PathBuf>>,
    addresses: Vec<Spanned<String>>,
    listen_port: Option<Spanned<u16>>,
    mtu: Option<Spanned<u16>>,
}

#[derive(Deserialize)]
struct RawPeer {
    name: Spanned<String>,
    public_key: Spanned<String>,
    preshared_key_file: Option<Spanned<PathBuf>>,
    endpoint: Option<Spanned<String>>,
    #[serde(default)]
    allowed_ips: Vec<Spanned<String>>,
    persistent_keepalive: Option<Spanned<u16>>,
    #[serde(default)]
    kind: PeerKind,
}

/// The text with its name, for errors.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn error(&self, span: Range<usize>, message: String, hint: &str) -> ConfigError {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        ConfigError { place: format!("{}:{line}", self.path.display()), message, hint: Some(hint.to_owned()) }
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let span = error.span().unwrap_or(0..0);
        let mut error = self.error(span, error.message().trim().replace('\n', ", "), "");
        error.hint = None;
        error
    }

    fn interface(&self, raw: RawInterface, warnings: &mut Vec<String>) -> Result<Interface, ConfigError> {
        let private_key = raw.private_key_file.map(|file| self.key_file(&file, warnings)).transpose()?;
        let addresses = raw.addresses.iter().map(|text| self.prefix(text)).collect::<Result<_, _>>()?;
        if let Some(mtu) = raw.mtu.as_ref().filter(|mtu| *mtu.get_ref() < LEAST_MTU) {
            let message = format!("an MTU of {} is too small", mtu.get_ref());
            return Err(self.error(mtu.span(), message, "IPv6 needs 1280"));
        }
        if let Some(port) = raw.listen_port.as_ref().filter(|port| *port.get_ref() == 0) {
            let hint = "Leave listen_port out to have a random port that is kept";
            return Err(self.error(port.span(), "port 0 cannot be listened on".to_owned(), hint));
        }
        let listen_port = raw.listen_port.map(Spanned::into_inner);
        Ok(Interface { private_key, addresses, listen_port, mtu: raw.mtu.map(Spanned::into_inner) })
    }

    fn peer(&self, raw: RawPeer, warnings: &mut Vec<String>) -> Result<Peer, ConfigError> {
        let span = raw.name.span();
        let name = raw.name.into_inner();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if name.is_empty() || name.len() > 63 || !name.bytes().all(plain) {
            let message = format!("{name:?} cannot name a peer");
            return Err(self.error(span, message, "A name is 1 to 63 letters, digits and hyphens"));
        }
        let public_key = decode_key(raw.public_key.get_ref()).ok_or_else(|| {
            let hint = "It is 32 bytes in base64: 44 characters, the last one =";
            self.error(raw.public_key.span(), format!("the public key of {name} is not a key"), hint)
        })?;
        let preshared_key = raw.preshared_key_file.map(|file| self.key_file(&file, warnings)).transpose()?;
        let endpoint = raw.endpoint.map(|endpoint| self.endpoint(endpoint)).transpose()?;
        let mut allowed_ips = Vec::new();
        for text in &raw.allowed_ips {
            let (address, length) = self.prefix(text)?;
            allowed_ips.push((masked(address, length), length));
        }
        let keepalive = raw.persistent_keepalive.map(Spanned::into_inner).filter(|seconds| *seconds > 0);
        let persistent_keepalive = keepalive.map(|seconds| Duration::from_secs(seconds.into()));
        let public_key = *public_key;
        Ok(Peer { name, public_key, preshared_key, endpoint, allowed_ips, persistent_keepalive, kind: raw.kind })
    }

    /// `address/length`, or an address alone for all of its bits.
    fn prefix(&self, text: &Spanned<String>) -> Result<(IpAddr, u8), ConfigError> {
        let parse = || {
            let (address, length) = match text.get_ref().split_once('/') {
                Some((address, length)) => (address, Some(length)),
                None => (text.get_ref().as_str(), None),
            };
            let address: IpAddr = address.parse().ok()?;
            let widest = if address.is_ipv4() { 32 } else { 128 };
            let length = length.map_or(Some(widest), |length| length.parse().ok())?;
            (length <= widest).then_some((address, length))
        };
        parse().ok_or_else(|| {
            self.error(
                text.span(),
                format!("{:?} is not an address", text.get_ref()),
                "Write 10.9.0.1/24 or fd00::1/64",
            )
        })
    }

    fn endpoint(&self, text: Spanned<String>) -> Result<String, ConfigError> {
        let valid = text.get_ref().rsplit_once(':').is_some_and(|(host, port)| {
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            let host_is_right = match bare {
                Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
                None => !host.is_empty() && !host.contains([':', '/', '[', ']']) && !host.contains(char::is_whitespace),
            };
            host_is_right && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if valid {
            return Ok(text.into_inner());
        }
        let hint = "Write vpn.example.com:51820, 203.0.113.7:51820 or [2001:db8::1]:51820";
        Err(self.error(text.span(), format!("{:?} is not an endpoint", text.get_ref()), hint))
    }

    fn key_file(&self, file: &Spanned<PathBuf>, warnings: &mut Vec<String>) -> Result<Key, ConfigError> {
        let path = self.path.parent().unwrap_or(Path::new("")).join(file.get_ref());
        let wrong = |cause: String, hint: &str| self.error(file.span(), format!("{}: {cause}", path.display()), hint);
        let unreadable = |error: std::io::Error| {
            wrong(format!("cannot be read: {error}"), "The daemon's user must be able to read the key file")
        };
        let opened = fs::File::open(&path).map_err(unreadable)?;
        let mode = opened.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            warnings.push(format!(
                "the key file {} is open to others (mode {mode:03o}); close it with: chmod 600 {}",
                path.display(),
                path.display()
            ));
        }
        let mut text = Zeroizing::new(String::with_capacity(LONGEST_KEY_FILE));
        opened.take(LONGEST_KEY_FILE as u64).read_to_string(&mut text).map_err(unreadable)?;
        let key = decode_key(text.trim()).ok_or_else(|| {
            wrong("holds no key".to_owned(), "It must hold 32 bytes in base64, as `wg genkey` writes them")
        })?;
        Ok(Key(key))
    }
}

fn decode_key(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let bytes = Zeroizing::new(BASE64.decode(text.as_bytes()).ok()?);
    Some(Zeroizing::new(<[u8; 32]>::try_from(bytes.as_slice()).ok()?))
}

/// Refuses tables and keys that do not exist, and `[debug]` outside tests.
fn check_keys(source: &Source<'_>, table: &DeTable<'_>, mode: Mode) -> Result<(), ConfigError> {
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        let Some((_, keys)) = TABLES.iter().find(|(table, _)| *table == name) else {
            return Err(unknown(source, key.span(), "table", name, TABLES.iter().map(|(table, _)| *table)));
        };
        if name == "debug" && mode == Mode::Normal {
            let hint = "Remove it; its settings are for tests, which start ginneld with --test-mode";
            return Err(source.error(key.span(), "[debug] is not accepted".to_owned(), hint));
        }
        let tables = match (name, value.get_ref().as_table(), value.get_ref().as_array()) {
            ("peer", _, Some(list)) => list.iter().map(|entry| entry.get_ref().as_table()).collect(),
            ("peer", _, None) | (_, None, _) => None,
            (_, Some(table), _) => Some(vec![table]),
        };
        let Some(tables) = tables else {
            let heading = if name == "peer" { "[[peer]]".to_owned() } else { format!("[{name}]") };
            let hint = format!("Write {heading} on a line of its own and the settings below it");
            return Err(source.error(key.span(), format!("{name} is not written as a table"), &hint));
        };
        for key in tables.into_iter().flat_map(|table| table.keys()) {
            let inner = key.get_ref().as_ref();
            if !keys.contains(&inner) {
                return Err(unknown(source, key.span(), "key", inner, keys.iter().copied()));
            }
        }
    }
    Ok(())
}

fn unknown<'a>(
    source: &Source<'_>,
    span: Range<usize>,
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> ConfigError {
    let hint = match nearest(name, known.clone()) {
        Some(near) => format!("Did you mean {near}?"),
        None => format!("Known here: {}", known.collect::<Vec<_>>().join(", ")),
    };
    source.error(span, format!("unknown {what} {name}"), &hint)
}

const TABLES: [(&str, &[&str]); 5] = [
    ("interface", &["private_key_file", "addresses", "listen_port", "mtu"]),
    ("peer", &["name", "public_key", "preshared_key_file", "endpoint", "allowed_ips", "persistent_keepalive", "kind"]),
    ("names", &["write_hosts", "hosts_file"]),
    ("control", &["admin_group"]),
    ("debug", &["rekey_after_seconds", "relay_only"]),
];
/// RFC 8200 §5.
const LEAST_MTU: u16 = 1280;
/// A key in base64 has 44 characters; the rest is for white space.
const LONGEST_KEY_FILE: usize = 128;

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const KEY: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

    #[test]
    fn a_full_file_is_read() {
        let folder = folder();
        let text = format!(
            "[interface]\nprivate_key_file = \"key\"\naddresses = [\"10.9.0.1/24\", \"fd00::1\"]\nlisten_port = 51820\n\
             mtu = 1420\n[[peer]]\nname = \"router\"\npublic_key = \"{KEY}\"\npreshared_key_file = \"key\"\n\
             endpoint = \"vpn.example.com:51820\"\nallowed_ips = [\"10.9.0.7/24\"]\npersistent_keepalive = 25\n\
             kind = \"ginnel\"\n[names]\nwrite_hosts = false\n[debug]\nrekey_after_seconds = 5\n"
        );
        let config = load(&folder, &text, Mode::Test).unwrap();
        assert_eq!(config.interface.addresses, [("10.9.0.1".parse().unwrap(), 24), ("fd00::1".parse().unwrap(), 128)]);
        let [peer] = &config.peers[..] else { panic!("one peer") };
        assert_eq!(peer.allowed_ips, [("10.9.0.0".parse().unwrap(), 24)]);
        assert_eq!((peer.kind, peer.persistent_keepalive), (PeerKind::Ginnel, Some(Duration::from_secs(25))));
        assert_eq!(peer.preshared_key.as_ref().unwrap().expose(), &peer.public_key);
        assert_eq!((config.debug.rekey_after_seconds, config.names.write_hosts), (Some(5), false));
        assert_eq!(config.names.hosts_file, Path::new("/etc/hosts"));
        assert_eq!(format!("{:?}", peer.preshared_key), "Some(Key(..))");
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        let config = load(&folder(), "", Mode::Normal).unwrap();
        assert!(config.peers.is_empty() && config.names.write_hosts);
        assert_eq!(config.control.admin_group, "ginnel-admin");
    }

    #[test]
    fn every_mistake_is_named_with_its_line_and_the_remedy() {
        let folder = folder();
        let peer = format!("[interface]\nprivate_key_file = \"key\"\n[[peer]]\nname = \"a\"\npublic_key = \"{KEY}\"\n");
        for (text, line, parts) in [
            ("[interface]\nlisten_prot = 1\n".to_owned(), 2, ["unknown key listen_prot", "Did you mean listen_port?"]),
            ("\n[interfaces]\n".to_owned(), 2, ["unknown table interfaces", "Did you mean interface?"]),
            (format!("{peer}endpont = \"x:1\"\n"), 6, ["unknown key endpont", "Did you mean endpoint?"]),
            (format!("{peer}colour = 1\n"), 6, ["unknown key colour", "Known here: name,"]),
            ("[debug]\nrelay_only = true\n".to_owned(), 1, ["[debug] is not accepted", "--test-mode"]),
            ("[interface]\nmtu = 100\n".to_owned(), 2, ["MTU of 100", "1280"]),
            ("[interface]\nlisten_port = 0\n".to_owned(), 2, ["port 0", "Leave listen_port out"]),
            ("[interface]\nlisten_port = 70000\n".to_owned(), 2, ["70000", "u16"]),
            ("[interface]\naddresses = [\"10.0.0.1/33\"]\n".to_owned(), 2, ["10.0.0.1/33", "10.9.0.1/24"]),
            ("[interface]\nprivate_key_file = \"none\"\n".to_owned(), 2, ["cannot be read", "be able to read"]),
            ("[interface]\nprivate_key_file = \"empty\"\n".to_owned(), 2, ["holds no key", "wg genkey"]),
            (peer.replace(KEY, "short"), 5, ["public key of a is not a key", "44 characters"]),
            (format!("{peer}endpoint = \"nowhere\"\n"), 6, ["not an endpoint", "vpn.example.com:51820"]),
            (format!("{peer}endpoint = \"2001:db8::1:51820\"\n"), 6, ["not an endpoint", "[2001:db8::1]"]),
            (format!("{peer}kind = \"openvpn\"\n"), 6, ["openvpn", "wireguard"]),
            (
                format!("{peer}[[peer]]\nname = \"a\"\npublic_key = \"{KEY}\"\n"),
                7,
                ["another peer is named a", "differ"],
            ),
            (format!("{peer}[[peer]]\nname = \"b\"\npublic_key = \"{KEY}\"\n"), 8, ["this public key", "differ"]),
            (peer.replace("private_key_file = \"key\"\n", "\n"), 4, ["needs a private key", "wg genkey"]),
            ("[interface]\nmtu = \n".to_owned(), 2, ["config.toml", ""]),
            ("interface = 1\n".to_owned(), 1, ["not written as a table", "Write [interface]"]),
            ("\n[peer]\nname = \"a\"\n".to_owned(), 2, ["not written as a table", "Write [[peer]]"]),
        ] {
            let error = load(&folder, &text, Mode::Normal).map(|_| ()).unwrap_err();
            let place = format!("{}/config.toml:{line}", folder.path().display());
            assert_eq!(error.place, place, "{text}\n{error}");
            for part in parts {
                assert!(error.to_string().contains(part), "{part} in {error}");
            }
        }
    }

    #[test]
    fn a_key_file_that_others_can_read_is_warned_about() {
        let folder = folder();
        fs::set_permissions(folder.path().join("key"), fs::Permissions::from_mode(0o644)).unwrap();
        let config = load(&folder, "[interface]\nprivate_key_file = \"key\"\n", Mode::Normal).unwrap();
        assert!(config.warnings[0].contains("mode 644") && config.warnings[0].contains("chmod 600"));
    }

    fn folder() -> TempDir {
        let folder = TempDir::new().unwrap();
        for (name, contents) in [("key", format!("{KEY}\n")), ("empty", String::new())] {
            let path = folder.path().join(name);
            fs::write(&path, contents).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        folder
    }

    fn load(folder: &TempDir, text: &str, mode: Mode) -> Result<Config, ConfigError> {
        let path = folder.path().join("config.toml");
        fs::write(&path, text).unwrap();
        Config::load(&path, mode)
    }
}
