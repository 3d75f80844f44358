//! A member of the network that means harm: it knows everybody's keys and may use the mailbox.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ginnel_membership::invite::Invite;
use ginnel_membership::{Capabilities, Entry, Name, NetworkId, Server, SigningKey, State, TunnelKey, build};
use ginnel_path::message::{CandidateList, Phase};
use ginnel_path::{Candidate, CandidateKind};
use ginnel_signal_proto::mailbox::{MailOpener, MailSealer};
use ginnel_signal_proto::{ClientMessage, Credentials, MailRefusal, ServerMessage};
use ginnel_time::Tai64n;
use ginnel_tunnel::{
    Established, HEADROOM, Identity, Initiator, Metadata, NetworkTag, PresharedKey, PublicKey, ReceiverIndex, Sealer,
    StaticSecret, Suite, TAILROOM,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use zeroize::Zeroizing;

use super::field::{Aim, Field, Volley};
use super::handshakes::unix;
use crate::counters::Direction;
use crate::host::Host;
use crate::scenario::guest::{Guest, random, runtime};

/// The member's keys and what it knows.
pub(super) struct Hostile {
    invite: Invite,
    key: SigningKey,
    secret: [u8; 32],
    state: State,
}

impl Hostile {
    /// Joins by an invite and reads the log.
    pub(super) fn join(host: &Host, ticket: &str) -> Result<Self> {
        let invite: Invite = ticket.parse().context("read the invite")?;
        let key = SigningKey::from_bytes(&random());
        let secret = StaticSecret::generate(&mut ChaCha20Rng::from_seed(random()));
        let tunnel = TunnelKey::from_bytes(secret.public().to_bytes());
        let name = Name::new(OWN_NAME).context("a name")?;
        let network = invite.network();
        let record = build::member_record(&network, invite.key(), &key, tunnel, name, Capabilities::BOTH_SUITES);
        let socket = socket(host)?;
        let state = runtime()?.block_on(async {
            let credentials = Credentials::Joiner { invite: invite.key().clone(), key: key.clone() };
            let mut guest = Guest::enter(socket, &invite.servers()[0], network, credentials).await?;
            guest.say(ClientMessage::Append { record }).await;
            loop {
                let message = guest.hear(PATIENCE).await?.context("the server does not take the member")?;
                if matches!(message, ServerMessage::Appended { .. }) {
                    return read_log(&mut guest, network).await;
                }
                ensure!(!matches!(message, ServerMessage::Refused { .. }), "no member for the server: {message:?}");
            }
        })?;
        Ok(Self { invite, key, secret: *secret.to_bytes(), state })
    }

    pub(super) fn network(&self) -> [u8; 32] {
        self.invite.network().to_bytes()
    }

    pub(super) fn network_id(&self) -> NetworkId {
        self.invite.network()
    }

    /// The invite that it came in by.
    pub(super) fn invite(&self) -> &Invite {
        &self.invite
    }

    pub(super) fn server(&self) -> &Server {
        &self.invite.servers()[0]
    }

    /// The tunnel key of a member.
    pub(super) fn key_of(&self, name: &str) -> Result<PublicKey> {
        let member = self.state.member_named(&Name::new(name).context("a name")?).context("no such member")?;
        Ok(PublicKey::from_bytes(member.tunnel_key().to_bytes()))
    }

    async fn enter(&self, socket: UdpSocket) -> Result<Guest> {
        let credentials = Credentials::Member { key: self.key.clone() };
        Guest::enter(socket, self.server(), self.network_id(), credentials).await
    }

    fn sealer(&self) -> MailSealer {
        MailSealer::new(random(), Zeroizing::new(self.secret), &self.network_id())
    }
}

async fn read_log(guest: &mut Guest, network: NetworkId) -> Result<State> {
    let mut state = State::new(network);
    guest.say(ClientMessage::Fetch { from: 0 }).await;
    loop {
        let message = guest.hear(PATIENCE).await?.context("the server shows no log")?;
        let ServerMessage::Entries { first, entries, head } = message else { continue };
        for (sequence, entry) in (first..).zip(entries) {
            if sequence == state.head().0 {
                let entry = Entry::decode(&entry).map_err(|error| anyhow::anyhow!("{error:?}"))?;
                state.apply(&entry).map_err(|error| anyhow::anyhow!("{error:?}"))?;
            }
        }
        if state.head().0 == head.length {
            return Ok(state);
        }
        guest.say(ClientMessage::Fetch { from: state.head().0 }).await;
    }
}

/// Mails the victim, or itself, as fast as the server takes it, half of it sealed well.
pub(super) fn mails(field: &Field, aim: Aim, until: Instant) -> Result<Volley> {
    let hostile = &field.hostile;
    let name = match aim {
        Aim::Victim => "ada",
        Aim::Nobody => OWN_NAME,
    };
    let to = hostile.state.member_named(&Name::new(name).context("a name")?).context("no such member")?;
    let (to, key) = (to.key(), to.tunnel_key());
    let mut sealer = hostile.sealer();
    let (mut sent, mut refused, mut cut) = (0, 0, 0);
    runtime()?.block_on(async {
        let mut guest = hostile.enter(socket(&field.enemy)?).await?;
        while Instant::now() < until {
            let bytes = match sent % 2 {
                0 => sealer.seal(Tai64n::from_unix(unix(), 0), &key, &[0x5A; BODY]).context("seal")?,
                _ => random::<{ BODY + 100 }>().to_vec(),
            };
            guest.say(ClientMessage::Mail { to, bytes }).await;
            sent += 1;
            let heard = loop {
                match guest.hear(Duration::from_micros(200)).await {
                    Ok(Some(ServerMessage::MailRefused { why: MailRefusal::RateLimited, .. })) => refused += 1,
                    Ok(Some(_)) => {}
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            };
            if !heard {
                cut += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
                match hostile.enter(socket(&field.enemy)?).await {
                    Ok(again) => guest = again,
                    // Shut out for a while: what a flood gets.
                    Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
                }
            }
        }
        anyhow::Ok(())
    })?;
    Ok(Volley::elsewhere(sent, format!("{sent} mails, {refused} refused for their rate, {cut} connections cut")))
}

/// Tells the victim, by mailbox and inside a session, candidates that are all a bystander's; counts what that one gets.
pub(super) fn third_party(field: &Field, until: Instant) -> Result<Volley> {
    let from = field.victim.at.ip();
    let meter = field.bystander.count_bytes(Direction::In, &format!("ip saddr {from} udp dport >= {FIRST_PORT}"))?;
    let begun = Instant::now();
    let mut liar = Liar::new(field)?;
    let link = runtime()?.block_on(async {
        let mut guest = field.hostile.enter(socket(&field.enemy)?).await?;
        let mut heard = None;
        while Instant::now() < until {
            guest.say(liar.offer(field)?).await;
            while let Some(message) = guest.hear(LIE_PACE).await? {
                if let ServerMessage::Mail { bytes, .. } = message {
                    heard = liar.answered(&bytes).or(heard);
                }
            }
            liar.lie_inside(field, heard.take())?;
        }
        anyhow::Ok(liar.sessions)
    })?;
    ensure!(link > 0, "no session came about, so nothing was told inside one");
    let counted = meter.read()?;
    let seconds = begun.elapsed().as_secs_f64();
    let rate = counted.packets as f64 / seconds;
    ensure!(counted.packets > 0, "the victim never tried the candidates, so this shows nothing");
    ensure!(rate <= THIRD_PARTY_RATE, "the bystander got {rate:.0} datagrams a second");
    let note = format!(
        "{} lists ({} sessions), {:.0} datagrams and {:.1} kB a second at the bystander, {:.2} bytes for each told",
        liar.lists,
        liar.sessions,
        rate,
        counted.bytes as f64 / seconds / 1e3,
        counted.bytes as f64 / liar.bytes.max(1) as f64,
    );
    Ok(Volley::elsewhere(liar.lists, note))
}

/// The state of one who tells false candidates.
struct Liar {
    rng: ChaCha20Rng,
    identity: Identity,
    sealer: MailSealer,
    opener: MailOpener,
    victim: PublicKey,
    socket: UdpSocket,
    initiator: Option<Initiator>,
    session: Option<Sealer>,
    lists: u64,
    bytes: u64,
    sessions: u64,
}

impl Liar {
    fn new(field: &Field) -> Result<Self> {
        let hostile = &field.hostile;
        let secret = StaticSecret::from_bytes(hostile.secret);
        Ok(Self {
            rng: ChaCha20Rng::from_seed(random()),
            identity: Identity::new(secret, NetworkTag(hostile.network())),
            sealer: hostile.sealer(),
            opener: MailOpener::new(random(), Zeroizing::new(hostile.secret), &hostile.network_id()),
            victim: field.victim.key,
            socket: socket(&field.enemy)?,
            initiator: None,
            session: None,
            lists: 0,
            bytes: 0,
            sessions: 0,
        })
    }

    /// As many candidates as a list holds, another set each time.
    fn candidates(&mut self, field: &Field) -> CandidateList {
        let kinds = [CandidateKind::Host, CandidateKind::ServerReflexive, CandidateKind::Relayed];
        let candidates = (0..16).map(|n| {
            let port = FIRST_PORT + (self.rng.next_u32() % 20_000) as u16;
            Candidate { kind: kinds[n % kinds.len()], addr: SocketAddr::new(field.bystander.ipv4().into(), port) }
        });
        CandidateList { round: 0, phase: Phase::Update, candidates: candidates.collect() }
    }

    /// Mail with an initiation and a list: kind 1, the length of the initiation, both.
    fn offer(&mut self, field: &Field) -> Result<ClientMessage> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let stamp = Tai64n::from_unix(now.as_secs(), now.subsec_nanos());
        let index = ReceiverIndex(self.rng.next_u32());
        let psk = PresharedKey::zero();
        let (initiator, initiation) =
            Initiator::start(&self.identity, self.victim, Suite::AesGcm, &psk, 0, stamp, index, &mut self.rng)
                .context("make an initiation")?;
        self.initiator = Some(initiator);
        let mut body = vec![1, 1];
        body.extend(u16::try_from(initiation.len()).unwrap_or(0).to_be_bytes());
        body.extend(initiation);
        body.extend(self.candidates(field).encode());
        let member = field.hostile.state.member_named(&Name::new("ada").context("a name")?).context("no ada")?;
        let bytes = self.sealer.seal(stamp, &member.tunnel_key(), &body).context("seal")?;
        self.lists += 1;
        self.bytes += bytes.len() as u64;
        Ok(ClientMessage::Mail { to: member.key(), bytes })
    }

    /// The session, if the mail is the answer to the last offer.
    fn answered(&mut self, mail: &[u8]) -> Option<Established> {
        let victim = TunnelKey::from_bytes(self.victim.to_bytes());
        let opened = self.opener.open(mail, &mut |sender| *sender == victim).ok()?;
        let length = usize::from(u16::from_be_bytes([*opened.body.get(2)?, *opened.body.get(3)?]));
        self.initiator.as_mut()?.finish(opened.body.get(4..4 + length)?).ok()
    }

    /// Confirms a new session from a true address, and tells lists inside it.
    fn lie_inside(&mut self, field: &Field, fresh: Option<Established>) -> Result<()> {
        if let Some(session) = fresh {
            self.session = Some(Sealer::new(session.suite, session.keys.send, session.remote_index));
            self.sessions += 1;
            self.seal(field, &[])?;
        }
        let list = self.candidates(field).encode();
        self.seal(field, &list)
    }

    fn seal(&mut self, field: &Field, plaintext: &[u8]) -> Result<()> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let mut buffer = vec![0; HEADROOM + plaintext.len() + TAILROOM];
        buffer[HEADROOM..HEADROOM + plaintext.len()].copy_from_slice(plaintext);
        let length = session.seal(Metadata::NONE, &mut buffer, plaintext.len()).context("seal")?;
        self.socket.send_to(&buffer[..length], field.victim.at).context("send")?;
        self.lists += u64::from(!plaintext.is_empty());
        self.bytes += length as u64;
        Ok(())
    }
}

fn socket(host: &Host) -> Result<UdpSocket> {
    host.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?.context("bind a socket")
}

const OWN_NAME: &str = "mallory";
const PATIENCE: Duration = Duration::from_secs(8);
const BODY: usize = 1000;
const LIE_PACE: Duration = Duration::from_millis(20);
const FIRST_PORT: u16 = 30_000;
/// The most that a bystander may get, in datagrams a second: the 200 handshake messages a second that a node sends to
/// addresses that have proved nothing, and as many probes.
const THIRD_PARTY_RATE: f64 = 400.0;
