//! What goes into a [`Node`](crate::Node) and what comes out.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_forward::{Command, Event};
use ginnel_membership::{NetworkId, Rights};
use ginnel_path::SocketId;
use ginnel_time::Tai64n;

use crate::networks::Ipv4Use;
use crate::notice::Notice;
use crate::report::{InviteReport, LogLine, PathReport};

/// One signaling server that this node talks to. A server of two networks has two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub u16);

/// A request of the local API, answered by an [`Output::Reply`] with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Everything that a node is told.
#[derive(Debug)]
pub enum Input {
    /// The wall clock's time; sent at start, after a jump, and at least once a minute.
    Wall(Tai64n),
    /// The machine's own addresses, tunnels and container bridges left out. The whole set.
    Interfaces(Vec<IpAddr>),
    /// Every address of this machine but those of the tunnels' own interface: no network's range may hold one, also where no
    /// peer can be reached at it. The whole set.
    Addresses(Vec<IpAddr>),
    /// A socket asked for by [`Output::OpenSocket`] is bound to `local`.
    SocketOpened {
        /// The socket.
        socket: SocketId,
        /// Its own address; the IP part is usually unspecified.
        local: SocketAddr,
    },
    /// A socket could not be opened, or broke.
    SocketLost {
        /// The socket.
        socket: SocketId,
    },
    /// The system has no route for a path.
    SendFailed {
        /// The path.
        path: ginnel_path::Path,
    },
    /// A fact, control message or raw datagram from the data plane.
    Forward(Event),
    /// The stream to a server is open.
    ServerOpened {
        /// The server.
        server: ServerId,
        /// Its address as it was reached.
        remote: SocketAddr,
    },
    /// Bytes from the stream of a server.
    ServerBytes {
        /// The server.
        server: ServerId,
        /// The bytes, in stream order.
        bytes: Vec<u8>,
    },
    /// The stream to a server is closed or was never reached.
    ServerClosed {
        /// The server.
        server: ServerId,
        /// Words for a user.
        reason: String,
    },
    /// A request of the local API.
    Request {
        /// Its number.
        id: RequestId,
        /// The network that is meant, by its name or the start of its id; needed where a machine is in several.
        network: Option<String>,
        /// The request.
        request: Request,
    },
}

/// Everything that a node asks of the shell, to be carried out in order.
#[derive(Debug)]
pub enum Output {
    /// A command for the data plane.
    Forward(Command),
    /// Open a UDP socket; answered by [`Input::SocketOpened`] or [`Input::SocketLost`].
    OpenSocket {
        /// The socket's number.
        socket: SocketId,
        /// Its address family.
        family: Family,
        /// The port to ask for.
        port: Port,
    },
    /// Close a UDP socket.
    CloseSocket(SocketId),
    /// Connect to a signaling server; answered by [`Input::ServerOpened`] or [`Input::ServerClosed`].
    ConnectServer {
        /// The server's number.
        server: ServerId,
        /// Its addresses, `host:port`, tried in turn.
        addresses: Vec<String>,
    },
    /// Bytes for the stream of a server.
    WriteServer {
        /// The server.
        server: ServerId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Close the stream to a server.
    DisconnectServer(ServerId),
    /// The TUN interface's whole wanted state.
    Tun(TunState),
    /// The whole set of names and their addresses, as `NAME.NETWORK.internal`.
    Names(Vec<(String, Vec<IpAddr>)>),
    /// State that must be durable before the next output is carried out.
    Persist(Vec<u8>),
    /// Log entries to be appended durably before the next output is carried out.
    StoreEntries {
        /// The network whose log grows.
        network: NetworkId,
        /// Encoded entries, in order.
        entries: Vec<Vec<u8>>,
    },
    /// What is stored of a network's log is replaced by a snapshot, the log entry that vouches for it and the entries after
    /// that one, durably before the next output is carried out, and at once: a power cut leaves all of it or what was before.
    StoreSnapshot {
        /// The network.
        network: NetworkId,
        /// The snapshot.
        snapshot: Vec<u8>,
        /// The encoded entry of its checkpoint.
        entry: Vec<u8>,
        /// The encoded entries after that one, in order.
        entries: Vec<Vec<u8>>,
    },
    /// The log of a network that this machine has left is no longer wanted.
    ForgetLog(NetworkId),
    /// Something happened that a user may want to know.
    Notice {
        /// The network's name on this machine; none for what is of the whole machine.
        network: Option<String>,
        /// What happened.
        notice: Notice,
    },
    /// The answer to a request.
    Reply {
        /// The request's number.
        id: RequestId,
        /// The answer.
        reply: Result<Reply, Failure>,
    },
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(addr: &SocketAddr) -> Self {
        match addr {
            SocketAddr::V4(_) => Self::V4,
            SocketAddr::V6(_) => Self::V6,
        }
    }
}

/// Which port a socket asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The machine's own port: from the configuration, or random and kept across restarts.
    Kept,
    /// A new random port.
    Fresh,
}

/// The wanted addresses and routes of the TUN interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunState {
    /// The interface's own addresses with their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// What is routed into the interface.
    pub routes: Vec<TunRoute>,
}

/// A destination that is routed into the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunRoute {
    /// The destination.
    pub destination: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
    /// The own address that packets to it bear unless a program asks for another. Members of a network take packets from
    /// our address in that network alone.
    pub source: Option<IpAddr>,
}

/// A request of the local API.
#[derive(Debug)]
pub enum Request {
    /// Makes the named network run, else every network; with a founding or invite string, joins its network first.
    Up {
        /// The founding or invite string.
        ticket: Option<String>,
        /// The wished name of this machine.
        name: Option<String>,
        /// The name of the network to be founded.
        network: Option<String>,
        /// Whether shields go up or down, for the whole machine; unchanged when absent.
        shields: Option<ginnel_forward::Shields>,
        /// The IPv4 range of the network to be founded, as `100.72.0.0/16`; chosen when absent.
        range: Option<String>,
        /// Whether the network's IPv4 addresses are used on this machine; unchanged, at first yes, when absent.
        ipv4: Option<Ipv4Use>,
    },
    /// Stops the links of the named network, else of every network; the memberships stay.
    Down,
    /// Forgets the network.
    Leave,
    /// Asks a peer for an answer through the tunnel.
    Ping {
        /// Name, address or key of the peer.
        peer: String,
        /// How long to wait.
        timeout: Duration,
    },
    /// Makes an invite.
    Invite {
        /// Its life.
        expires: Duration,
        /// The name that the joiner gets unless it wishes another.
        name: Option<String>,
    },
    /// Lists the invites.
    Invites,
    /// Takes an open invite back.
    VoidInvite {
        /// The invite's short or full id.
        id: String,
    },
    /// Revokes a member for good.
    Revoke {
        /// Name, address or key of the peer.
        peer: String,
    },
    /// Lists the membership log.
    Log,
    /// Gives the network one more server.
    ServerAdd {
        /// The founding string of the server.
        founding: String,
    },
    /// Takes a server out of the network.
    ServerRemove {
        /// Its address or the start of its key.
        server: String,
    },
    /// Makes a server the one that orders the log.
    ServerPromote {
        /// Its address or the start of its key.
        server: String,
    },
    /// Makes a member an admin.
    AdminAdd {
        /// Name, address or key of the member.
        peer: String,
    },
    /// Takes an admin's rights.
    AdminRemove {
        /// Name, address or key of the member, or the start of the admin's key.
        peer: String,
    },
    /// Sets how many admins must agree.
    AdminThreshold {
        /// How many.
        threshold: u8,
    },
    /// Adds this machine's signature to what another admin has proposed.
    Cosign {
        /// The proposal as it was printed.
        proposal: String,
    },
    /// Changes the rules.
    Policy {
        /// Whether nobody new is let in once the last lease is too old; unchanged when absent.
        strict: Option<bool>,
        /// A member and the rights of an admin that it gets; none takes them away.
        delegate: Option<(String, Option<Rights>)>,
    },
    /// Lets newcomers start from what the log means at present.
    Checkpoint,
    /// Replaces this machine's keys in the network.
    RotateKeys,
}

/// The answer to a request that was carried out.
#[derive(Debug)]
pub enum Reply {
    /// Done; nothing more to say.
    Done,
    /// The network runs.
    Up(UpReport),
    /// Several networks run, in the order in which they were joined.
    AllUp(Vec<UpReport>),
    /// The networks that were stopped, by name.
    Stopped(Vec<String>),
    /// A peer answered.
    Pong {
        /// The peer's name.
        peer: String,
        /// The path by which the answer came.
        path: PathReport,
        /// The round-trip time.
        rtt: Duration,
    },
    /// A new invite.
    Invite {
        /// The pasteable string.
        ticket: String,
        /// The network's name.
        network: String,
        /// What it is.
        invite: InviteReport,
    },
    /// The invites of the network.
    Invites(Vec<InviteReport>),
    /// The membership log.
    Log {
        /// The network's name.
        network: String,
        /// Its latest entries.
        lines: Vec<LogLine>,
    },
    /// The network was left and forgotten.
    Left {
        /// Its name.
        network: String,
    },
    /// Other admins must agree first.
    Proposed {
        /// The string for them to sign.
        proposal: String,
        /// How many of them.
        missing: u8,
        /// What it is, in words.
        what: String,
        /// The pasteable string of a proposed invite, which joins once they have signed.
        ticket: Option<String>,
    },
    /// A member was revoked.
    Revoked {
        /// Its name.
        name: String,
        /// Its key in hexadecimal.
        id: String,
    },
}

/// A network that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpReport {
    /// What it took.
    pub outcome: UpOutcome,
    /// The network's name.
    pub network: String,
    /// The network's id in hexadecimal.
    pub network_id: String,
    /// This machine's name in it.
    pub name: String,
    /// This machine's addresses in it.
    pub addresses: Vec<IpAddr>,
}

/// What it took to make a network run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpOutcome {
    /// The network was founded.
    Founded,
    /// This machine joined.
    Joined,
    /// The network was stopped before.
    Started,
    /// It ran already.
    Unchanged,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The sort of failure.
    pub code: FailureCode,
    /// What went wrong.
    pub message: String,
    /// What the user can do; may be empty.
    pub hint: String,
}

impl Failure {
    pub(crate) fn new(code: FailureCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: hint.into() }
    }
}

/// Sorts of failure, each with an exit code of its own at the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureCode {
    /// It failed.
    Failed,
    /// The request makes no sense as it stands.
    Usage,
    /// This machine may not do that.
    Denied,
    /// This machine is in no network.
    NotJoined,
    /// No such peer, invite, server or admin.
    NoSuch,
    /// No network of this machine is called so.
    NoSuchNetwork,
    /// It fits several networks of this machine.
    Ambiguous,
    /// No answer in time.
    TimedOut,
}
