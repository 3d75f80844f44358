//! The rules that every deciding machine keeps.

use std::net::SocketAddr;
use std::time::Duration;

use ginnel_time::Instant;
use proptest::prelude::*;

use crate::message::{CandidateList, Echo, MAX_CANDIDATES, Phase, Probe};
use crate::{
    Agent, Candidate, CandidateKind, Config, Input, Local, LocalCandidate, OPENER_TTL, Output, Path, RelayId, Role,
    SocketId,
};

fn at(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn locals() -> Vec<LocalCandidate> {
    let (socket, relay) = (Local::Socket(SocketId(0)), Local::Relay(RelayId(0)));
    vec![
        LocalCandidate { kind: CandidateKind::Host, local: socket, addr: addr("192.168.1.2:5000") },
        LocalCandidate { kind: CandidateKind::ServerReflexive, local: socket, addr: addr("203.0.113.1:5000") },
        LocalCandidate { kind: CandidateKind::Relayed, local: relay, addr: addr("192.0.2.9:49001") },
    ]
}

fn remotes() -> Vec<Candidate> {
    vec![
        Candidate { kind: CandidateKind::Host, addr: addr("192.168.2.2:6000") },
        Candidate { kind: CandidateKind::Host, addr: addr("8.8.4.4:6000") },
        Candidate { kind: CandidateKind::ServerReflexive, addr: addr("198.51.100.2:6000") },
        Candidate { kind: CandidateKind::Relayed, addr: addr("192.0.2.9:49002") },
    ]
}

fn ready_agent() -> Agent {
    let mut agent = Agent::new([7; 32], Config::default());
    agent.handle_input(at(0), Input::LocalCandidates(locals())).unwrap();
    agent.handle_input(at(0), Input::RemoteCandidates(remotes())).unwrap();
    agent
}

fn drain(agent: &mut Agent) -> Vec<Output> {
    std::iter::from_fn(|| agent.poll_output()).collect()
}

#[test]
fn deadlines_fire_when_due_and_firing_moves_them() {
    let mut agent = ready_agent();
    agent.handle_input(at(0), Input::Session(Role::Initiator)).unwrap();
    drain(&mut agent);
    let mut now = at(0);
    for _ in 0..2000 {
        let Some(due) = agent.poll_timeout() else { break };
        assert!(due > now, "firing moves the deadline");
        agent.handle_timeout(due - Duration::from_nanos(1));
        assert!(drain(&mut agent).is_empty(), "nothing happens before the deadline");
        assert_eq!(agent.poll_timeout(), Some(due), "an early call leaves the deadline alone");
        now = due;
        agent.handle_timeout(now);
        drain(&mut agent);
    }
    assert_eq!(agent.poll_timeout(), None, "without an answer and without data it comes to rest");
    assert!(now >= at(120_000), "it did not give up early: {now:?}");
}

#[test]
fn while_output_is_queued_the_timeout_is_the_last_now() {
    let mut agent = ready_agent();
    agent.handle_input(at(5), Input::Session(Role::Initiator)).unwrap();
    assert_eq!(agent.poll_timeout(), Some(at(5)));
    agent.handle_timeout(at(3));
    assert_eq!(agent.poll_timeout(), Some(at(5)), "an earlier now counts as the latest seen");
    drain(&mut agent);
    assert!(agent.poll_timeout() > Some(at(5)));
}

#[test]
fn nothing_is_sealed_without_a_session() {
    let mut agent = ready_agent();
    let path = Path { local: Local::Socket(SocketId(0)), remote: addr("198.51.100.2:6000") };
    agent.handle_input(at(1), Input::Arrived(path)).unwrap();
    assert!(agent.handle_input(at(2), Input::Message { path, bytes: vec![2, 1] }).is_err());
    agent.handle_input(at(3), Input::Traffic { sent: true, received: true }).unwrap();
    assert!(drain(&mut agent).is_empty());
    assert_eq!(agent.poll_timeout(), None);
}

#[test]
fn openers_are_short_lived_only_where_a_nat_could_clash() {
    let openers = ready_agent().openers();
    let ttl = |remote: &str, local: Local| {
        openers.iter().find(|(path, _)| *path == Path { local, remote: addr(remote) }).map(|(_, ttl)| *ttl)
    };
    let (socket, relay) = (Local::Socket(SocketId(0)), Local::Relay(RelayId(0)));
    assert_eq!(ttl("192.168.2.2:6000", socket), Some(None), "a private address");
    assert_eq!(ttl("8.8.4.4:6000", socket), Some(None), "a host with a public address");
    assert_eq!(ttl("198.51.100.2:6000", socket), Some(Some(OPENER_TTL)), "a mapping");
    assert_eq!(ttl("192.0.2.9:49002", socket), Some(None), "one relay");
    assert_eq!(ttl("198.51.100.2:6000", relay), None, "a relay cannot open gently: it would spoil the mapping");
    assert_eq!(ttl("192.0.2.9:49002", relay), Some(None), "two relays");
    assert_eq!(ttl("192.168.2.2:6000", relay), None, "a relay reaches no private network");
}

#[test]
fn the_first_probes_of_a_session_go_out_on_every_pair_at_once() {
    let mut agent = ready_agent();
    agent.handle_input(at(0), Input::Session(Role::Initiator)).unwrap();
    let seals = drain(&mut agent).into_iter().filter(|output| matches!(output, Output::Seal { ttl: None, .. })).count();
    assert_eq!(seals, 6, "all but the pair of two relays, at full TTL");
}

#[test]
fn what_a_crossing_call_brings_is_taken_whichever_call_stands() {
    let mut agent = ready_agent();
    agent.handle_input(at(0), Input::Session(Role::Initiator)).unwrap();
    let mut outputs = drain(&mut agent);
    while let Some(due) = agent.poll_timeout().filter(|due| *due < at(3000)) {
        agent.handle_timeout(due);
        outputs.extend(drain(&mut agent));
    }
    assert!(
        outputs.iter().any(|output| matches!(output, Output::FreshSocket { .. })),
        "a round of our own is prepared"
    );
    let named = addr("198.51.100.77:7000");
    let candidates = vec![Candidate { kind: CandidateKind::ServerReflexive, addr: named }];
    let path = Path { local: Local::Socket(SocketId(0)), remote: addr("198.51.100.2:6000") };
    let call = CandidateList { round: 9, phase: Phase::Call, candidates };
    let _ = agent.handle_input(at(3000), Input::Message { path, bytes: call.encode() });
    assert!(agent.status().iter().any(|status| status.path.remote == named), "{:?}", agent.status());
    let answered = drain(&mut agent).into_iter().any(|output| match output {
        Output::Seal { plaintext, .. } => plaintext.first() != Some(&crate::message::PROBE),
        Output::Answered { .. }
        | Output::Select { .. }
        | Output::FreshSocket { .. }
        | Output::Summon
        | Output::Event(_) => false,
    });
    assert!(!answered, "our own call stands");
}

#[test]
fn an_answered_probe_is_told_of_by_the_path_that_it_went_by() {
    let mut agent = ready_agent();
    agent.handle_input(at(0), Input::Session(Role::Initiator)).unwrap();
    let probe = |output: Output| match output {
        Output::Seal { path, plaintext, .. } => Probe::decode(&plaintext).ok().map(|probe| (path, probe.id)),
        Output::Answered { .. }
        | Output::Select { .. }
        | Output::FreshSocket { .. }
        | Output::Summon
        | Output::Event(_) => None,
    };
    let probes: Vec<(Path, u64)> = drain(&mut agent).into_iter().filter_map(probe).collect();
    let [(asked, id), (other, late), ..] = probes[..] else { panic!("{probes:?}") };
    assert_ne!(asked, other);
    let echo = |agent: &mut Agent, millis: u64, id: u64| {
        let bytes = Echo { id, observed: addr("203.0.113.1:5000"), relayed: false }.encode();
        let _ = agent.handle_input(at(millis), Input::Message { path: other, bytes });
        let answered = |output| if let Output::Answered { path } = output { Some(path) } else { None };
        drain(agent).into_iter().filter_map(answered).collect::<Vec<_>>()
    };
    assert_eq!(echo(&mut agent, 20, id), [asked], "whichever path the echo takes");
    assert_eq!(echo(&mut agent, 30, id), [], "once");
    assert_eq!(echo(&mut agent, 40, !id), [], "nobody asked");
    assert_eq!(echo(&mut agent, 5001, late), [], "too late");
}

#[test]
fn the_same_seed_and_inputs_give_the_same_outputs() {
    let run = || {
        let mut agent = ready_agent();
        agent.handle_input(at(0), Input::Session(Role::Initiator)).unwrap();
        let mut outputs = drain(&mut agent);
        while let Some(due) = agent.poll_timeout() {
            agent.handle_timeout(due);
            outputs.extend(drain(&mut agent));
        }
        outputs
    };
    assert_eq!(run(), run());
}

fn any_addr() -> impl Strategy<Value = SocketAddr> {
    let known = prop::sample::select(vec![
        addr("192.168.1.2:5000"),
        addr("192.168.2.2:6000"),
        addr("198.51.100.2:6000"),
        addr("203.0.113.1:5000"),
        addr("192.0.2.9:49001"),
        addr("192.0.2.9:49002"),
        addr("127.0.0.1:1"),
        addr("[2001:db8::1]:1"),
        addr("[::ffff:8.8.8.8]:1"),
        addr("0.0.0.0:0"),
    ]);
    prop_oneof![known, any::<(u32, u16)>().prop_map(|(ip, port)| SocketAddr::from((ip.to_be_bytes(), port)))]
}

fn any_local() -> impl Strategy<Value = Local> {
    prop_oneof![(0..20u16).prop_map(|n| Local::Socket(SocketId(n))), (0..3u16).prop_map(|n| Local::Relay(RelayId(n)))]
}

fn any_path() -> impl Strategy<Value = Path> {
    (any_local(), any_addr()).prop_map(|(local, remote)| Path { local, remote })
}

fn any_kind() -> impl Strategy<Value = CandidateKind> {
    use CandidateKind::{Host, PeerReflexive, Relayed, ServerReflexive};
    prop::sample::select(vec![Host, ServerReflexive, PeerReflexive, Relayed])
}

fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    prop::collection::vec((any_kind(), any_addr()).prop_map(|(kind, addr)| Candidate { kind, addr }), 0..MAX_CANDIDATES)
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let phase = prop::sample::select(vec![Phase::Update, Phase::Call, Phase::Ready]);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80),
        (0..6u8, phase, any_candidates()).prop_map(|(round, phase, candidates)| CandidateList {
            round,
            phase,
            candidates
        }
        .encode()),
        (any::<u64>(), any_addr(), any::<bool>())
            .prop_map(|(id, observed, relayed)| Echo { id, observed, relayed }.encode()),
    ]
}

/// One thing that happens to an agent; `Answer` echoes one of the probes that it sent last.
#[derive(Clone, Debug)]
enum Act {
    Input(Input),
    Answer { back: usize, observed: SocketAddr, relayed: bool },
    Timeout,
}

fn any_act() -> impl Strategy<Value = Act> {
    let local = (any_kind(), any_local(), any_addr());
    let local = local.prop_map(|(kind, local, addr)| LocalCandidate { kind, local, addr });
    prop_oneof![
        2 => prop::collection::vec(local, 0..24).prop_map(|list| Act::Input(Input::LocalCandidates(list))),
        2 => any_candidates().prop_map(|list| Act::Input(Input::RemoteCandidates(list))),
        2 => prop::sample::select(vec![Role::Initiator, Role::Responder]).prop_map(|role| Act::Input(Input::Session(role))),
        1 => Just(Act::Input(Input::SessionLost)),
        4 => any_path().prop_map(|path| Act::Input(Input::Arrived(path))),
        4 => (any_path(), any_bytes()).prop_map(|(path, bytes)| Act::Input(Input::Message { path, bytes })),
        4 => any::<(bool, bool)>().prop_map(|(sent, received)| Act::Input(Input::Traffic { sent, received })),
        1 => any_path().prop_map(|path| Act::Input(Input::SendFailed { path })),
        1 => any_local().prop_map(|local| Act::Input(Input::PathLost(local))),
        8 => (0..8usize, any_addr(), any::<bool>())
            .prop_map(|(back, observed, relayed)| Act::Answer { back, observed, relayed }),
        8 => Just(Act::Timeout),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_inputs_keep_the_contract(acts in prop::collection::vec((any_act(), 0..3_000u64), 1..150)) {
        let mut agent = Agent::new([3; 32], Config::default());
        agent.handle_input(at(0), Input::LocalCandidates(locals())).unwrap();
        let mut now = at(0);
        let mut probes: Vec<(Path, u64)> = Vec::new();
        for (act, millis) in acts {
            now += Duration::from_millis(millis);
            match act {
                Act::Input(input) => { let _ = agent.handle_input(now, input); }
                Act::Answer { back, observed, relayed } => match probes.iter().rev().nth(back).copied() {
                    Some((path, id)) => {
                        let bytes = Echo { id, observed, relayed }.encode();
                        let _ = agent.handle_input(now, Input::Message { path, bytes });
                    }
                    None => agent.handle_timeout(now),
                },
                Act::Timeout => agent.handle_timeout(now),
            }
            let outputs = drain(&mut agent);
            prop_assert!(outputs.len() <= 100, "{} outputs at once", outputs.len());
            for output in outputs {
                if let Output::Select { primary, backup, duplicate } = &output {
                    prop_assert!(primary.is_none() || primary != backup);
                    prop_assert!(!duplicate || (primary.is_some() && backup.is_some()));
                }
                if let Output::Seal { path, plaintext, .. } = output
                    && let Ok(Probe { id }) = Probe::decode(&plaintext)
                {
                    prop_assert!(crate::address::usable_source(path.remote), "probe to {}", path.remote);
                    probes.push((path, id));
                }
            }
            prop_assert!(agent.poll_timeout().is_none_or(|due| due > now), "due {:?} at {now:?}", agent.poll_timeout());
            prop_assert!(agent.status().len() <= 48);
            prop_assert!(agent.openers().len() <= 24);
            let _ = agent.why_not_direct();
        }
    }
}
