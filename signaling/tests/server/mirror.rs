//! Two real servers of one network: one orders the log, the other mirrors it.

use std::time::{Duration, Instant};

use ginnel_membership::build::{self, Charter, Founded};
use ginnel_membership::invite::Founding;
use ginnel_membership::record::ServersChange;
use ginnel_membership::{Capabilities, Entry, Name, State};
use ginnel_signal_proto::client::Broken;
use ginnel_signal_proto::server::FORWARD_PATIENCE;
use ginnel_signal_proto::{ClientMessage, Credentials, Head, Refusal, ServerMessage, Standing};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use crate::link::Link;
use crate::process::{PATIENCE, Process, State as StateFolder, unix};
use crate::{founder, key, member_record};

/// Two servers, and a network that both hold.
struct Pair {
    states: [StateFolder; 2],
    processes: [Process; 2],
    foundings: [Founding; 2],
    founded: Founded,
}

impl Pair {
    /// Founds a network at the first server, makes the second its mirror, and lets nodes 1 and 2 join.
    async fn new() -> Self {
        let states = [StateFolder::new(), StateFolder::new()];
        let processes = [Process::start(&states[0], &[]), Process::start(&states[1], &[])];
        let foundings = [processes[0].founding(), processes[1].founding()];
        let charter = Charter {
            name: Name::new("home").expect("a good name"),
            sequencer: foundings[0].server().keys.sequencer(),
            servers: foundings.iter().map(|founding| founding.server().clone()).collect(),
            ipv4_range: None,
            now: unix(),
        };
        let founded = build::found(&mut ChaCha20Rng::seed_from_u64(1), charter).expect("a good charter");
        for founding in &foundings {
            let credentials = founder(founding, &founded);
            let mut admin = Link::open(founding.server(), founded.network, credentials).await.expect("let in");
            admin.send(ClientMessage::Found { genesis: founded.genesis.clone() }).await;
            assert_eq!(admin.answer().await, ServerMessage::Appended { sequence: 0 });
            admin.close().await;
        }
        let pair = Self { states, processes, foundings, founded };
        let mut admin = pair.admin(0).await;
        for n in [1, 2] {
            admin.append(pair.invite(100 + n)).await;
            let record = member_record(&pair.founded.network, &key(100 + n), n);
            admin.append(record).await;
        }
        admin.close().await;
        pair.wait_for_head(1, pair.head(0).await).await;
        pair
    }

    fn invite(&self, n: u8) -> Vec<u8> {
        let expires = unix() + 600;
        build::invite_record(&self.founded.network, &self.founded.admin, key(n).invite_key(), expires, None)
    }

    fn update(&self, n: u8, number: u64) -> Vec<u8> {
        let name = Name::new(&format!("name{number}")).expect("a good name");
        let suites = Capabilities::BOTH_SUITES;
        build::update_record(&self.founded.network, &key(n), number, name, suites, build::NewKeys::None)
    }

    async fn open(&self, server: usize, credentials: Credentials) -> Result<Link, Broken> {
        Link::open(self.foundings[server].server(), self.founded.network, credentials).await
    }

    async fn admin(&self, server: usize) -> Link {
        self.open(server, Credentials::Member { key: self.founded.admin.clone() }).await.expect("let in")
    }

    async fn member(&self, server: usize, n: u8) -> Link {
        self.open(server, Credentials::Member { key: key(n) }).await.expect("let in")
    }

    async fn head(&self, server: usize) -> Head {
        // The mirror may not have the entry yet that makes the admin one.
        let start = Instant::now();
        loop {
            let credentials = Credentials::Member { key: self.founded.admin.clone() };
            match self.open(server, credentials).await {
                Ok(link) => {
                    let head = link.welcome.head;
                    link.close().await;
                    return head;
                }
                Err(broken) => assert!(start.elapsed() < PATIENCE, "{broken:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn wait_for_head(&self, server: usize, wanted: Head) {
        let start = Instant::now();
        loop {
            let head = self.head(server).await;
            if head == wanted {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "server {server} stays at {head:?}, not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn log(&self, server: usize) -> State {
        let mut link = self.admin(server).await;
        let mut state = State::new(self.founded.network);
        while state.head().0 < link.welcome.head.length {
            link.send(ClientMessage::Fetch { from: state.head().0 }).await;
            let ServerMessage::Entries { entries, .. } = link.next().await else { panic!("no entries") };
            for entry in entries {
                state.apply(&Entry::decode(&entry).expect("an entry")).expect("continues the log");
            }
        }
        link.close().await;
        state
    }

    fn restart(&mut self, server: usize) {
        self.processes[server] = Process::start(&self.states[server], &[]);
    }

    /// Appends until the answer is no longer that the sequencer cannot be reached.
    async fn insist(&self, link: &mut Link, record: &[u8]) -> ServerMessage {
        let start = Instant::now();
        loop {
            link.send(ClientMessage::Append { record: record.to_vec() }).await;
            let answer = link.answer().await;
            let again = matches!(answer, ServerMessage::Refused { code: Refusal::NoSequencer | Refusal::Busy, .. });
            if !again || start.elapsed() > PATIENCE {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

#[tokio::test]
async fn mirror_copies_hands_on_and_outlives_the_sequencer() {
    let mut pair = Pair::new().await;
    let mut one = pair.member(0, 1).await;
    let mut two = pair.member(1, 2).await;
    two.append(pair.update(2, 1)).await;
    let ServerMessage::Entries { first: 5, .. } = one.next().await else { panic!("no push at the sequencer") };
    let ServerMessage::Entries { first: 5, .. } = two.next().await else { panic!("no push at the mirror") };

    let mut admin = pair.admin(0).await;
    admin.append(pair.invite(200)).await;
    let join = |n| Credentials::Joiner { invite: key(200), key: key(n) };
    pair.wait_for_head(1, pair.head(0).await).await;
    let mut winner = pair.open(1, join(20)).await.expect("let in");
    winner.append(member_record(&pair.founded.network, &key(200), 20)).await;
    let loser = pair.open(0, join(21)).await.err();
    let Some(Broken::Refused { code: Refusal::InviteUsed, text }) = loser else { panic!("{loser:?}") };
    assert!(text.contains("node20"), "{text}");
    let again = pair.open(0, join(20)).await.expect("let in");
    assert_eq!(again.welcome.standing, Standing::Member);

    pair.processes[0].kill();
    let record = pair.update(2, 2);
    two.send(ClientMessage::Append { record: record.clone() }).await;
    let start = Instant::now();
    let answer = two.answer().await;
    assert!(matches!(answer, ServerMessage::Refused { code: Refusal::NoSequencer, .. }), "{answer:?}");
    assert!(start.elapsed() < FORWARD_PATIENCE + Duration::from_secs(4), "{:?}", start.elapsed());
    let mut one = pair.member(1, 1).await;
    one.send(ClientMessage::Mail { to: key(2).member_key(), bytes: vec![7] }).await;
    assert_eq!(two.answer().await, ServerMessage::Mail { from: key(1).member_key(), bytes: vec![7] });
    one.send(ClientMessage::Relay).await;
    assert!(matches!(one.answer().await, ServerMessage::Relay(_)));

    pair.restart(0);
    assert!(matches!(pair.insist(&mut two, &record).await, ServerMessage::Appended { .. }));
    assert_eq!(pair.log(0).await.head(), pair.log(1).await.head());
}

#[tokio::test]
async fn sequencer_that_lost_its_newest_entries_gets_them_back() {
    let mut pair = Pair::new().await;
    let before = pair.log(0).await;
    pair.processes[0].kill();
    pair.states[0].forget_entries(2);
    pair.restart(0);
    let mut admin = pair.admin(0).await;
    // It takes nothing before the mirror has given the entries back.
    let answer = pair.insist(&mut admin, &pair.invite(201)).await;
    assert!(matches!(answer, ServerMessage::Appended { .. }), "{answer:?}");
    let after = pair.log(0).await;
    assert_eq!(
        after.head_at(before.head().0),
        Some(before.head().1),
        "nothing was ordered in the lost entries' places"
    );
    assert_eq!(after.head().0, before.head().0 + 1);
    pair.wait_for_head(1, pair.head(0).await).await;
}

#[tokio::test]
async fn restarted_mirror_catches_up_and_is_still_a_mirror() {
    let mut pair = Pair::new().await;
    pair.processes[1].terminate();
    let mut admin = pair.admin(0).await;
    for n in 0..20 {
        admin.append(pair.invite(150 + n)).await;
    }
    pair.restart(1);
    pair.wait_for_head(1, pair.head(0).await).await;
    assert!(pair.processes[1].prints_nothing(), "no founding string where networks are");
}

#[tokio::test]
async fn office_moves_to_the_mirror_and_a_dead_sequencer_comes_back_as_a_mirror() {
    let mut pair = Pair::new().await;
    pair.processes[0].kill();
    let state = pair.log(1).await;
    let mut admin = pair.admin(1).await;
    let change = ServersChange {
        number: state.next_servers(),
        sequencer: pair.foundings[1].server().keys.sequencer(),
        servers: pair.foundings.iter().map(|founding| founding.server().clone()).collect(),
    };
    let record = build::servers_record(&pair.founded.network, &pair.founded.admin, change).expect("two servers");
    assert!(matches!(pair.insist(&mut admin, &record).await, ServerMessage::Appended { sequence: 5 }));
    admin.append(pair.invite(201)).await;
    pair.restart(0);
    let mut one = pair.member(0, 1).await;
    let record = pair.update(1, 1);
    assert_eq!(pair.insist(&mut one, &record).await, ServerMessage::Appended { sequence: 7 });
    assert_eq!(pair.log(0).await.head(), pair.log(1).await.head());
    assert_eq!(pair.log(0).await.sequencer(), Some(pair.foundings[1].server().keys.sequencer()));
}
