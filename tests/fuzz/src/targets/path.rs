//! Path messages, addresses of others, and the agent that lives on both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ginnel_path::address::{Reach, canonical, reach, usable_candidate, usable_source};
use ginnel_path::message::{
    CandidateList, Echo, MAX_CANDIDATES, Message, PROBE_MIN_LEN, Phase, decode, is_path_message,
};
use ginnel_path::{
    Agent, Candidate, CandidateKind, Config, Input, Local, LocalCandidate, Output, Path, RelayId, Role, SocketId,
};
use ginnel_time::Instant;

use crate::feed::{Feed, Script};
use crate::{Effort, Target};

/// Any plaintext as a path message.
pub(crate) const MESSAGE: Target = Target {
    name: "path_message",
    covers: "probes, echoes and candidate lists out of a session",
    run: message,
    seeds: || {
        let candidate = |ip: IpAddr| Candidate { kind: CandidateKind::Host, addr: SocketAddr::new(ip, 4000) };
        let candidates = vec![candidate([192, 0, 2, 1].into()), candidate(Ipv6Addr::LOCALHOST.into())];
        vec![
            ginnel_path::message::Probe { id: 7 }.encode(),
            Echo { id: 7, observed: SocketAddr::from(([192, 0, 2, 1], 7)), relayed: true }.encode(),
            CandidateList { round: 1, phase: Phase::Call, candidates }.encode(),
        ]
    },
    longest: 700,
    effort: Effort::Small,
};

/// Addresses in every form that hides another.
pub(crate) const ADDRESS: Target = Target {
    name: "address",
    covers: "what an address really is",
    run: address,
    seeds: || {
        let forbidden =
            [[127, 0, 0, 1], [0, 0, 0, 0], [169, 254, 169, 254], [224, 0, 0, 1], [10, 0, 0, 1], [8, 8, 8, 8]];
        forbidden.iter().flat_map(|v4| (0..9).map(move |form| [&[form][..], v4, &[0; 12]].concat())).collect()
    },
    longest: 24,
    effort: Effort::Small,
};

/// The agent, fed by its probes' echoes and by a hostile peer.
pub(crate) const AGENT: Target = Target {
    name: "path_agent",
    covers: "the path agent under a peer's messages",
    run: agent,
    seeds: || {
        let begin = [0, 3, 0, 1, 2, 1, 2, 2, 3, 2, 0];
        vec![
            Script::default().bytes(&begin).bytes(&[5, 100, 3, 0, 0, 0, 5, 200, 3, 1, 0, 0]).done(),
            Script::default().bytes(&begin).bytes(&[4, 0, 1, 1]).chunk(&[3, 1, 0, 0, 0]).bytes(&[5, 255]).done(),
            Script::default().bytes(&begin).bytes(&[6, 0, 1, 7, 1, 5, 9, 5, 9, 8, 1]).done(),
        ]
    },
    longest: 800,
    effort: Effort::Middling,
};

fn message(bytes: &[u8]) {
    let Ok(message) = decode(bytes) else { return };
    assert!(bytes.first().is_some_and(|first| is_path_message(*first) && *first < 0x40));
    match message {
        Message::Probe(probe) => {
            assert!(bytes.len() >= PROBE_MIN_LEN, "an echo would be longer than its probe");
            assert_eq!(decode(&probe.encode_padded(bytes.len())), Ok(Message::Probe(probe)));
        }
        Message::Echo(echo) => assert_eq!(echo.encode(), bytes),
        Message::Candidates(list) => {
            assert!(list.candidates.len() <= MAX_CANDIDATES);
            assert_eq!(list.encode(), bytes);
        }
    }
}

/// The ways in which an IPv6 address hides an IPv4 address.
fn disguised(form: u8, v4: Ipv4Addr, more: [u8; 12]) -> Ipv6Addr {
    let [a, b, c, d] = v4.octets();
    let [high, low] = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
    match form {
        1 => v4.to_ipv6_mapped(),
        2 => Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
        3 => Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, u16::from(more[0])),
        4 => Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
        5 => Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
        6 => Ipv6Addr::new(0x2001, 0, u16::from(more[0]), 0, 0, 0, !high, !low),
        7 => Ipv6Addr::new(0x2001, 0x470, 0, 0, 0, 0x5efe, high, low),
        _ => Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
    }
}

fn address(data: &[u8]) {
    let mut feed = Feed::new(data);
    let form = feed.u8() % 10;
    if form == 9 {
        let ip = IpAddr::V6(Ipv6Addr::from(feed.array::<16>()));
        assert_eq!(canonical(canonical(ip)), canonical(ip), "{ip} has two canonical forms");
        assert_eq!(reach(canonical(ip)), reach(ip));
        return;
    }
    let v4 = Ipv4Addr::from(feed.array::<4>());
    let plain = reach(v4.into());
    assert_eq!(canonical(v4.into()), IpAddr::V4(v4));
    let by_hand =
        v4.is_loopback() || v4.is_multicast() || v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0;
    if by_hand {
        assert!(!plain.is_public() && !plain.is_private(), "{v4} is {plain:?}");
        assert!(!usable_source(SocketAddr::new(v4.into(), 7)));
    }
    if form == 0 {
        return;
    }
    let v6 = disguised(form, v4, feed.array());
    // Below ::/96 live `::` and `::1` themselves.
    if v6.is_unspecified() || v6.is_loopback() {
        assert!(matches!(reach(v6.into()), Reach::Unspecified | Reach::Loopback));
        return;
    }
    let seen = reach(v6.into());
    assert!(!by_hand || (!seen.is_public() && !seen.is_private()), "{v6} hides {v4} and passes as {seen:?}");
    assert!(!usable_candidate(SocketAddr::new(v6.into(), 7)), "{v6} is no honest candidate");
    assert!(!by_hand || !usable_source(SocketAddr::new(v6.into(), 7)));
}

fn local(feed: &mut Feed<'_>) -> Local {
    match feed.u8() % 4 {
        0 => Local::Relay(RelayId(0)),
        number => Local::Socket(SocketId(number.into())),
    }
}

fn near(feed: &mut Feed<'_>) -> SocketAddr {
    let kind = feed.u8();
    let ip = match kind % 8 {
        0 => [192, 168, 1, kind / 64],
        1 => [127, 0, 0, 1],
        2 => [169, 254, 169, 254],
        _ => [198, 51, 100, kind / 64],
    };
    SocketAddr::from((ip, 4000 + u16::from(kind % 3)))
}

fn kind(feed: &mut Feed<'_>) -> CandidateKind {
    use CandidateKind::{Host, PeerReflexive, Relayed, ServerReflexive};
    feed.pick(&[Host, ServerReflexive, PeerReflexive, Relayed])
}

fn agent(data: &[u8]) {
    let mut feed = Feed::new(data);
    let refused = (IpAddr::from([198, 51, 100, 3]), 32);
    let mut agent = Agent::new([8; 32], Config { refused: [refused].into(), ..Config::default() });
    let mut now = Instant::ZERO + Duration::from_secs(10);
    let mut probes: Vec<(Path, u64)> = Vec::new();
    while !feed.is_empty() {
        let path = |feed: &mut Feed<'_>, probes: &[(Path, u64)]| match probes.len() {
            0 => Path { local: local(feed), remote: near(feed) },
            among => probes[among - 1 - feed.below(among.min(16))].0,
        };
        let input = match feed.u8() % 10 {
            0 => Input::LocalCandidates(
                (0..feed.u8() % 6)
                    .map(|_| LocalCandidate { kind: kind(&mut feed), local: local(&mut feed), addr: near(&mut feed) })
                    .collect(),
            ),
            1 => Input::RemoteCandidates(
                (0..feed.u8() % 40).map(|_| Candidate { kind: kind(&mut feed), addr: near(&mut feed) }).collect(),
            ),
            2 => Input::Session(feed.pick(&[Role::Initiator, Role::Responder])),
            3 if !probes.is_empty() => {
                let (path, id) = probes[probes.len() - 1 - feed.below(probes.len().min(16))];
                let echo = Echo { id, observed: path.remote, relayed: feed.flag() };
                Input::Message { path, bytes: feed.spoil(echo.encode()) }
            }
            4 => Input::Message { path: path(&mut feed, &probes), bytes: feed.chunk().to_vec() },
            5 => {
                now += Duration::from_millis(u64::from(feed.u8()) * 20);
                agent.handle_timeout(now);
                look(&mut agent, &mut probes, refused.0);
                continue;
            }
            6 => Input::Arrived(Path { local: local(&mut feed), remote: near(&mut feed) }),
            7 => Input::Message {
                path: path(&mut feed, &probes),
                bytes: CandidateList {
                    round: feed.u8() % 4,
                    phase: feed.pick(&[Phase::Update, Phase::Call, Phase::Ready]),
                    candidates: (0..feed.u8() % 40)
                        .map(|_| Candidate { kind: kind(&mut feed), addr: near(&mut feed) })
                        .collect(),
                }
                .encode(),
            },
            8 => Input::Traffic { sent: feed.flag(), received: feed.flag() },
            _ => match feed.u8() % 4 {
                0 => Input::SessionLost,
                1 => Input::SendFailed { path: path(&mut feed, &probes) },
                2 => Input::PathLost(local(&mut feed)),
                _ => Input::Arrived(Path { local: local(&mut feed), remote: feed.address() }),
            },
        };
        let _ = agent.handle_input(now, input);
        look(&mut agent, &mut probes, refused.0);
    }
}

/// Nothing may go where it must not, whatever was told.
fn look(agent: &mut Agent, probes: &mut Vec<(Path, u64)>, refused: IpAddr) {
    let fine = |path: &Path| usable_source(path.remote) && path.remote.ip() != refused;
    let mut outputs = 0;
    while let Some(output) = agent.poll_output() {
        outputs += 1;
        assert!(outputs < 10_000, "output without end");
        match output {
            Output::Seal { path, plaintext, .. } => {
                assert!(fine(&path), "sent to {path:?}: {plaintext:?}");
                if let Ok(Message::Probe(probe)) = decode(&plaintext) {
                    probes.push((path, probe.id));
                }
            }
            Output::Select { primary, backup, .. } => {
                assert!(primary.iter().chain(&backup).all(fine), "selected {primary:?}, {backup:?}");
                assert!(primary.is_none() || primary != backup);
            }
            Output::Answered { path } => assert!(fine(&path), "{path:?} answered"),
            Output::FreshSocket { .. } | Output::Summon | Output::Event(_) => {}
        }
    }
    for (path, _) in agent.openers() {
        assert!(fine(&path), "an opener to {path:?}");
    }
    assert!(agent.candidates().len() <= MAX_CANDIDATES);
}
