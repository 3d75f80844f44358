//! The control task: drives the node, and carries out what it asks for.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ginnel_forward::PeerId;
use ginnel_local_api::{self as local_api, ApiError, Effect, EventKind, Exit, Timestamp};
use ginnel_membership::NetworkId;
use ginnel_node::{Failure, Family, Input, Node, Notice, Output, Port, Reply, RequestId, ServerId, Status, TunState};
use ginnel_path::SocketId;
use tokio::sync::{mpsc, oneshot};

use crate::api::{Call, Events};
use crate::clock;
use crate::data::{DataCommand, DataEvent, DataHandle};
use crate::hosts::Hosts;
use crate::netlink::{self, Netlink};
use crate::quic::{Incoming, ServerStream};
use crate::record::Recorder;
use crate::state::{Keeper, StateError};
use crate::translate::{self, Asked, Report, Traffic};
use crate::tun::{Applied, Tun, Unset};
use crate::udp::{Pair, SendFailure, Udp, bind_random};

/// What the control task owns.
pub struct Control {
    /// The deciding machine.
    pub node: Node,
    /// The way to the data thread.
    pub data: DataHandle,
    /// The state folder, and what is still to be written to it.
    pub state: Keeper,
    /// The TUN interface.
    pub tun: Tun,
    /// The kernel's addresses and routes.
    pub netlink: Netlink,
    /// The hosts file, when names are written to it.
    pub hosts: Option<Hosts>,
    /// Where what happens is told.
    pub events: Events,
    /// Takes down what goes into the node, when that is wanted.
    pub recorder: Option<Recorder>,
    /// When the daemon started.
    pub started: Timestamp,
    /// State between inputs.
    pub tasks: Tasks,
}

/// What goes on beside the node.
pub struct Tasks {
    servers: BTreeMap<ServerId, Stream>,
    news: mpsc::Sender<News>,
    inbox: mpsc::Receiver<News>,
    calls: BTreeMap<RequestId, Pending>,
    next_call: u64,
    next_stream: u64,
    applied: Applied,
    clashes: Vec<Unset>,
    own: Pair,
    /// Whether a socket of each family, IPv4 first, was given out.
    had: [bool; 2],
    /// Whether the disk was in trouble when that was last told.
    told_trouble: bool,
}

struct Stream {
    serial: u64,
    outgoing: Option<mpsc::Sender<Vec<u8>>>,
    task: tokio::task::JoinHandle<()>,
}

struct Pending {
    request: local_api::Request,
    /// The network that it named.
    network: Option<String>,
    answer: oneshot::Sender<Result<local_api::Reply, ApiError>>,
}

/// News from a task that serves one stream.
enum News {
    Opened { server: ServerId, serial: u64, remote: std::net::SocketAddr, outgoing: mpsc::Sender<Vec<u8>> },
    Bytes { server: ServerId, serial: u64, bytes: Vec<u8> },
    Closed { server: ServerId, serial: u64, reason: String },
}

impl Tasks {
    /// Nothing goes on yet; `own` are the sockets on this machine's own port.
    pub fn new(own: Pair) -> Self {
        let (news, inbox) = mpsc::channel(NEWS);
        Self {
            servers: BTreeMap::new(),
            news,
            inbox,
            calls: BTreeMap::new(),
            next_call: 0,
            next_stream: 0,
            applied: Applied::default(),
            clashes: Vec::new(),
            own,
            had: [false; 2],
            told_trouble: false,
        }
    }
}

impl Control {
    /// Runs until `shutdown` is ready.
    ///
    /// # Errors
    /// When the data thread or the interface has ended. A disk that fails is no such reason.
    pub async fn run(
        mut self,
        mut events: mpsc::Receiver<DataEvent>,
        mut calls: mpsc::Receiver<Call>,
        mut changes: mpsc::Receiver<()>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<()> {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut alarm = clock::Alarm::new().context("open a timer")?;
        let mut wall = tokio::time::interval(WALL);
        self.tell(Input::Wall(clock::tai64n_now())).await?;
        self.tell_interfaces().await?;
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let now = clock::now();
            if self.node.poll_timeout().is_some_and(|due| due <= now) {
                if let Some(recorder) = &mut self.recorder {
                    recorder.deadlines(now);
                }
                self.node.handle_timeout(now);
                self.drain().await?;
            }
            self.state.handle_timeout(clock::now());
            self.tell_trouble();
            let timeout = [self.node.poll_timeout(), self.state.poll_timeout()].into_iter().flatten().min();
            // Whatever is ready has the same chance: packets may keep the data thread's channel full for long.
            tokio::select! {
                () = &mut shutdown => break,
                count = events.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        bail!("the data thread has ended");
                    }
                    for event in batch.drain(..) {
                        self.take_event(event).await?;
                    }
                }
                Some(news) = self.tasks.inbox.recv() => self.take_news(news).await?,
                Some(call) = calls.recv() => self.take_call(call).await?,
                Some(()) = changes.recv() => self.tell_interfaces().await?,
                _ = wall.tick() => self.tell(Input::Wall(clock::tai64n_now())).await?,
                rung = alarm.until(timeout) => rung.context("set the alarm")?,
            }
        }
        self.shut_down().await;
        Ok(())
    }

    /// Tells readers of events when the disk begins to fail, and when it is well again.
    fn tell_trouble(&mut self) {
        let trouble = self.state.trouble();
        if trouble.is_some() == self.tasks.told_trouble {
            return;
        }
        self.tasks.told_trouble = trouble.is_some();
        let text = trouble.map_or_else(
            || "this machine's state is on the disk again".to_owned(),
            |trouble| format!("this machine's state is not on the disk: {}", trouble.text),
        );
        self.events.tell(None, EventKind::Alarm { text });
    }

    fn tell_notice(&self, network: Option<String>, notice: Notice) {
        if self.events.is_heard() {
            self.events.tell(network, translate::event(notice));
        }
    }

    async fn take_event(&mut self, event: DataEvent) -> Result<()> {
        match event {
            DataEvent::Forward(event) => self.tell(Input::Forward(event)).await,
            DataEvent::SendFailed { path, failure: SendFailure::NoRoute } => {
                self.tell(Input::SendFailed { path }).await
            }
            DataEvent::SendFailed { path, failure } => {
                tracing::debug!(?path, ?failure, "a datagram was not sent");
                Ok(())
            }
            DataEvent::SocketLost { id, error } => {
                tracing::warn!(socket = id.0, error, "a socket is lost");
                self.tell(Input::SocketLost { socket: id }).await
            }
            DataEvent::TunLost { error } => bail!("the interface {} is gone: {error}", self.tun.name()),
        }
    }

    async fn tell(&mut self, input: Input) -> Result<()> {
        self.feed(input);
        self.drain().await
    }

    /// The one place at which the node is told something.
    fn feed(&mut self, input: Input) {
        let now = clock::now();
        if let Some(recorder) = &mut self.recorder {
            recorder.input(now, &input);
        }
        if let Err(discard) = self.node.handle_input(now, input) {
            tracing::debug!(%discard, "dropped");
        }
    }

    async fn tell_interfaces(&mut self) -> Result<()> {
        match self.netlink.interface_addresses().await {
            Ok(entries) => {
                self.tell(Input::Addresses(netlink::in_use(&entries, self.tun.name()))).await?;
                self.tell(Input::Interfaces(netlink::candidates(&entries, self.tun.name()))).await
            }
            Err(error) => {
                tracing::warn!("cannot list this machine's addresses: {error:#}");
                Ok(())
            }
        }
    }

    /// Carries out everything that the node asks for, in order.
    async fn drain(&mut self) -> Result<()> {
        while let Some(output) = self.node.poll_output() {
            if let Some(recorder) = &mut self.recorder {
                recorder.output(&output);
            }
            match output {
                Output::Forward(command) => self.data.send(DataCommand::Forward(command))?,
                Output::OpenSocket { socket, family, port } => self.open_socket(socket, family, port)?,
                Output::CloseSocket(id) => self.data.send(DataCommand::RemoveSocket { id })?,
                Output::ConnectServer { server, addresses } => self.connect(server, addresses),
                Output::WriteServer { server, bytes } => self.write(server, bytes),
                Output::DisconnectServer(server) => {
                    self.tasks.servers.remove(&server);
                }
                Output::Tun(state) => self.apply_tun(&state).await,
                Output::Names(names) => self.write_names(&names),
                Output::Persist(bytes) => self.state.write(clock::now(), STATE, STATE_VERSION, bytes),
                Output::StoreEntries { network, entries } => {
                    self.state.append(clock::now(), &log_name(&network), entries);
                }
                Output::StoreSnapshot { network, snapshot, entry, entries } => {
                    self.state.restart(clock::now(), &log_name(&network), (snapshot, entry), entries);
                }
                Output::ForgetLog(network) => {
                    self.state.forget(clock::now(), &log_name(&network));
                    // The keys of that network are not to be found in the generation before either.
                    self.state.forget_previous(clock::now(), STATE);
                }
                Output::Notice { network, notice } => self.tell_notice(network, notice),
                Output::Reply { id, reply } => self.answer(id, reply),
            }
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.drained();
        }
        Ok(())
    }

    fn open_socket(&mut self, socket: SocketId, family: Family, port: Port) -> Result<()> {
        let opened = match port {
            Port::Kept => self.own_socket(family),
            Port::Fresh => bind_random(match family {
                Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            })
            .map(Some),
        };
        let input = match opened {
            Ok(Some(udp)) => {
                let local = udp.local();
                self.data.send(DataCommand::AddSocket { id: socket, socket: udp })?;
                Input::SocketOpened { socket, local }
            }
            Ok(None) => Input::SocketLost { socket },
            Err(error) => {
                tracing::error!("no socket: {error:#}");
                Input::SocketLost { socket }
            }
        };
        self.feed(input);
        Ok(())
    }

    /// The socket of one family on this machine's own port; `None` where the machine lacks the family.
    fn own_socket(&mut self, family: Family) -> Result<Option<Udp>> {
        let pair = &mut self.tasks.own;
        let (had, socket, any) = match family {
            Family::V4 => (&mut self.tasks.had[0], pair.v4.take(), IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            Family::V6 => (&mut self.tasks.had[1], pair.v6.take(), IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        };
        if socket.is_none() && *had {
            // The family's first socket was closed; the port is still this machine's own.
            return Ok(Some(Udp::bind((any, pair.port).into()).context("bind the port again")?));
        }
        *had |= socket.is_some();
        Ok(socket)
    }

    fn connect(&mut self, server: ServerId, addresses: Vec<String>) {
        self.tasks.next_stream += 1;
        let serial = self.tasks.next_stream;
        let task = tokio::spawn(serve_stream(server, serial, addresses, self.tasks.news.clone()));
        self.tasks.servers.insert(server, Stream { serial, outgoing: None, task });
    }

    fn write(&mut self, server: ServerId, bytes: Vec<u8>) {
        let Some(outgoing) = self.tasks.servers.get(&server).and_then(|stream| stream.outgoing.as_ref()) else {
            return;
        };
        if outgoing.try_send(bytes).is_err() {
            // A byte stream with a hole is of no use; the node connects again.
            tracing::warn!(server = server.0, "a server does not take what it is sent; connecting anew");
            self.tasks.servers.remove(&server);
            let reason = "the server does not take what it is sent".to_owned();
            self.feed(Input::ServerClosed { server, reason });
        }
    }

    async fn take_news(&mut self, news: News) -> Result<()> {
        let (server, serial) = match &news {
            News::Opened { server, serial, .. }
            | News::Bytes { server, serial, .. }
            | News::Closed { server, serial, .. } => (*server, *serial),
        };
        let Some(stream) = self.tasks.servers.get_mut(&server).filter(|stream| stream.serial == serial) else {
            return Ok(());
        };
        let input = match news {
            News::Opened { remote, outgoing, .. } => {
                stream.outgoing = Some(outgoing);
                Input::ServerOpened { server, remote }
            }
            News::Bytes { bytes, .. } => Input::ServerBytes { server, bytes },
            News::Closed { reason, .. } => {
                self.tasks.servers.remove(&server);
                Input::ServerClosed { server, reason }
            }
        };
        self.tell(input).await
    }

    async fn take_call(&mut self, call: Call) -> Result<()> {
        match translate::request(&call.request) {
            Asked::Report(report) => {
                let answer = match self.narrowed(&report, call.network.as_deref()) {
                    Ok(status) => {
                        let peers: Vec<PeerId> = status.peers.iter().map(|peer| peer.id).collect();
                        let traffic = Traffic { peers: self.data.report(peers).await?.peers };
                        translate::report(&report, &self.node, &status, &traffic, self.started)
                    }
                    Err(failure) => translate::failure(&call.request, failure),
                };
                // A caller that has gone takes no answer.
                drop(call.answer.send(self.with_own_health(answer)));
                Ok(())
            }
            Asked::Node(request) => {
                if call.request.endpoint().effect() == Effect::Lasting
                    && let Err(trouble) = self.state.check(clock::now())
                {
                    let message = format!("nothing was changed, as it could not be kept: {trouble}");
                    let error = ApiError::new(Exit::Failed, "state-not-writable", message).with_hint(MAKE_ROOM);
                    drop(call.answer.send(Err(error)));
                    return Ok(());
                }
                // Callers that have gone take no answer.
                self.tasks.calls.retain(|_, pending| !pending.answer.is_closed());
                self.tasks.next_call += 1;
                let id = RequestId(self.tasks.next_call);
                self.tasks
                    .calls
                    .insert(id, Pending { request: call.request, network: call.network.clone(), answer: call.answer });
                self.tell(Input::Request { id, network: call.network, request }).await
            }
        }
    }

    /// The node's state, less what a report is not about.
    fn narrowed(&self, report: &Report, network: Option<&str>) -> Result<Status, Failure> {
        let mut status = self.node.status(clock::now());
        let one = match (report, network) {
            (Report::Ip(Some(peer)), _) => {
                let id = self.node.peer_named(network, peer)?;
                status.peers.retain(|peer| peer.id == id);
                return Ok(status);
            }
            (Report::Status | Report::Peers, None) => return Ok(status),
            (Report::Ip(None) | Report::Servers | Report::Admins | Report::Policy, _)
            | (Report::Status | Report::Peers, Some(_)) => self.node.network_named(network)?,
        };
        status.networks.retain(|network| network.number == one);
        status.peers.retain(|peer| peer.network == Some(one));
        status.health.retain(|item| item.network.is_none_or(|network| network == one));
        Ok(status)
    }

    /// Adds to a status document what the node does not know: what the kernel and the disk refuse.
    fn with_own_health(&self, answer: Result<local_api::Reply, ApiError>) -> Result<local_api::Reply, ApiError> {
        answer.map(|mut reply| {
            if let local_api::Reply::Status(status) = &mut reply {
                if !self.tasks.clashes.is_empty() {
                    let networks = self.node.status(clock::now()).networks;
                    let shown = &status.body.networks;
                    let told = self.tasks.clashes.iter().filter_map(|unset| translate::unset(&networks, shown, unset));
                    status.body.health.extend(told);
                }
                status.body.health.splice(0..0, self.disk_health());
            }
            reply
        })
    }

    fn disk_health(&self) -> Vec<local_api::Health> {
        let mut health = Vec::new();
        if let Some(trouble) = self.state.trouble() {
            let since = Timestamp::from_unix(
                clock::unix_now().saturating_sub(clock::now().saturating_duration_since(trouble.since).as_secs()),
            );
            health.push(local_api::Health {
                network: None,
                code: "state-not-written".to_owned(),
                severity: local_api::Severity::Error,
                text: format!("what changed since {since} is not on the disk: {}", trouble.text),
                fix: Some(MAKE_ROOM.to_owned()),
            });
        }
        health.extend(self.state.folder().warnings().iter().map(|text| local_api::Health {
            network: None,
            code: "state-restored".to_owned(),
            severity: local_api::Severity::Error,
            text: text.clone(),
            fix: Some("check the disk; this goes with the daemon's next start".to_owned()),
        }));
        health
    }

    fn answer(&mut self, id: RequestId, reply: Result<Reply, Failure>) {
        let Some(pending) = self.tasks.calls.remove(&id) else { return };
        let mut status = self.node.status(clock::now());
        // The one that was meant comes first.
        if let Ok(meant) = self.node.network_named(pending.network.as_deref()) {
            status.networks.sort_by_key(|network| network.number != meant);
        }
        let lost = self.state.trouble().filter(|_| pending.request.endpoint().effect() == Effect::Lasting);
        let answer = match (reply, lost) {
            (Ok(_), Some(trouble)) => {
                let message = format!("it is done, but a restart will not know of it: {}", trouble.text);
                Err(ApiError::new(Exit::Failed, "not-kept", message).with_hint(MAKE_ROOM))
            }
            (Ok(reply), None) => translate::reply(&pending.request, reply, &status),
            (Err(failure), _) => translate::failure(&pending.request, failure),
        };
        // A caller that has gone takes no answer.
        drop(pending.answer.send(answer));
    }

    /// Brings the interface to the wanted state, less the routes that clash with the machine's own.
    async fn apply_tun(&mut self, wanted: &TunState) {
        let index = self.tun.index();
        let routes = self.netlink.routes().await.unwrap_or_default();
        let mut kept = Vec::new();
        self.tasks.clashes.clear();
        for wanted in &wanted.routes {
            let (ip, prefix) = (wanted.destination, wanted.prefix);
            match netlink::clash(&routes, index, ip, prefix) {
                Some(route) => {
                    let theirs = format!("{}/{}", route.destination, route.prefix);
                    let text = format!("{ip}/{prefix} is not routed: this machine has a route {theirs} of its own");
                    self.tasks.clashes.push(Unset { own: wanted.source, text });
                }
                None => kept.push(*wanted),
            }
        }
        if let Err(failures) = self.tasks.applied.apply(&self.netlink, index, &wanted.addresses, &kept).await {
            for failure in failures {
                tracing::error!("{}", failure.text);
                self.tasks.clashes.push(failure);
            }
        }
    }

    fn write_names(&mut self, names: &[(String, Vec<IpAddr>)]) {
        if let Some(hosts) = &mut self.hosts
            && let Err(error) = hosts.set(names)
        {
            tracing::warn!("{error:#}");
        }
    }

    async fn shut_down(mut self) {
        if let Some(hosts) = &mut self.hosts
            && let Err(error) = hosts.remove()
        {
            tracing::warn!("{error:#}");
        }
        if let Err(trouble) = self.state.check(clock::now()) {
            tracing::error!("what changed lately is lost: {trouble}");
        }
        self.tasks.servers.clear();
        // Closing frames leave with the tasks' last turn.
        tokio::time::sleep(GOODBYE).await;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects, then carries what the server says until the end.
async fn serve_stream(server: ServerId, serial: u64, addresses: Vec<String>, news: mpsc::Sender<News>) {
    let stream = match ServerStream::connect(&addresses).await {
        Ok(stream) => stream,
        Err(error) => {
            let _ = news.send(News::Closed { server, serial, reason: error.to_string() }).await;
            return;
        }
    };
    let remote = stream.remote();
    let (mut incoming, outgoing, _link) = stream.split();
    if news.send(News::Opened { server, serial, remote, outgoing }).await.is_err() {
        return;
    }
    let mut reason = "the connection ended".to_owned();
    while let Some(message) = incoming.recv().await {
        match message {
            Incoming::Bytes(bytes) => {
                if news.send(News::Bytes { server, serial, bytes }).await.is_err() {
                    return;
                }
            }
            Incoming::Closed(why) => {
                reason = why;
                break;
            }
        }
    }
    let _ = news.send(News::Closed { server, serial, reason }).await;
}

/// Binds the sockets on this machine's own port: the one that the configuration asks for, else the kept one, else a new
/// one, which is kept.
///
/// # Errors
/// When the configured port is taken, no port can be bound, or the kept one cannot be read.
pub fn own_sockets(state: &mut Keeper, configured: Option<u16>) -> Result<Pair> {
    let kept = match state.read(PORT, PORT_VERSION) {
        Ok(kept) => kept.and_then(|(_, bytes)| <[u8; 2]>::try_from(bytes.as_slice()).ok().map(u16::from_be_bytes)),
        Err(error @ StateError::Damaged { .. }) => {
            tracing::warn!("another port is taken: {error}");
            None
        }
        Err(error) => return Err(error.into()),
    };
    let pair = match configured {
        Some(port) => Pair::bind_to(port).with_context(|| {
            format!(
                "cannot use UDP port {port}, which listen_port asks for: stop the program that has it, or configure \
                 another port or none"
            )
        })?,
        None => Pair::bind(kept)?,
    };
    if Some(pair.port) != kept {
        state.write(clock::now(), PORT, PORT_VERSION, pair.port.to_be_bytes().to_vec());
    }
    Ok(pair)
}

/// The state file of a network's log.
pub fn log_name(network: &NetworkId) -> String {
    format!("{LOG_PREFIX}{network}")
}

/// How the name of every log begins.
pub const LOG_PREFIX: &str = "log-";

/// Where a folder for a kind of file is, by the service manager's word or by custom.
pub fn folder(variable: &str, custom: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| PathBuf::from(custom), PathBuf::from)
}

/// The error for a request that no daemon can answer while it stops.
pub fn stopping() -> ApiError {
    ApiError::new(Exit::Unreachable, "stopping", "the daemon is stopping")
}

/// Name of the node's state in the state folder.
pub const STATE: &str = "node";
/// The version of the envelope of the node's state; what is inside has a version of its own.
pub const STATE_VERSION: u8 = 1;
const PORT: &str = "port";
const PORT_VERSION: u8 = 1;
const NEWS: usize = 256;
/// Events of the data thread that are taken before anything else has its chance.
const BATCH: usize = 64;
const WALL: Duration = Duration::from_secs(30);
const MAKE_ROOM: &str =
    "Make room on the disk, or make it writable; links stay up, and writing is tried again every minute.";
const GOODBYE: Duration = Duration::from_millis(50);
