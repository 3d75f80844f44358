//! One machine in several networks.

use std::net::{IpAddr, Ipv6Addr};

use ginnel_forward::{Command, Discard, Event, Roam, Shields};
use ginnel_membership::addressing::Ipv4Range;
use ginnel_membership::{Invite, NetworkId, SigningKey};
use ginnel_path::message::{CandidateList, Phase};
use ginnel_path::{Candidate, CandidateKind};

use super::world::{World, secs};
use crate::io::{Failure, FailureCode, Input, Reply, Request, UpOutcome, UpReport};
use crate::networks::{Ipv4Use, MAX_NETWORKS};
use crate::node::Node;
use crate::notice::Notice;
use crate::report::{NetworkReport, NetworkState};

/// The founder of `home`, on the first server.
pub(super) const HOME: usize = 0;
/// The machine in both networks.
pub(super) const BOTH: usize = 1;
/// The founder of `work`, on the second server.
pub(super) const WORK: usize = 2;

fn up(ticket: Option<String>, name: &str) -> Request {
    let name = Some(name.to_owned());
    Request::Up { ticket, name, network: None, shields: None, range: None, ipv4: None }
}

pub(super) fn start() -> Request {
    Request::Up { ticket: None, name: None, network: None, shields: None, range: None, ipv4: None }
}

fn founding(ticket: String, title: &str, range: Option<&str>) -> Request {
    let (network, range) = (Some(title.to_owned()), range.map(str::to_owned));
    let name = Some("boss".to_owned());
    Request::Up { ticket: Some(ticket), name, network, shields: None, range, ipv4: None }
}

/// Two networks, each founded by a machine of its own, with ranges of their choice; `BOTH` is in none yet.
pub(super) fn founded(titles: [&str; 2], ranges: [Option<&str>; 2]) -> World {
    let mut world = World::new(3, 2);
    founded_in(&mut world, [0, 1], titles, ranges);
    world
}

/// As [`founded`], each on the server that is named for it.
pub(super) fn founded_in(world: &mut World, hosts: [usize; 2], titles: [&str; 2], ranges: [Option<&str>; 2]) {
    for (at, machine) in [HOME, WORK].into_iter().enumerate() {
        let ticket = world.founding(hosts[at]);
        let up = world.ask(machine, founding(ticket, titles[at], ranges[at]));
        assert!(matches!(&up, Ok(Reply::Up(up)) if up.outcome == UpOutcome::Founded), "{up:?}");
        if at == 0 && hosts[0] == hosts[1] {
            world.stop_host(hosts[0]);
            world.renew_founding(hosts[0]);
            world.start_host(hosts[0]);
        }
    }
    world.pass(secs(2));
}

pub(super) fn join(world: &mut World, founder: usize) -> Result<UpReport, Failure> {
    let ticket = Some(world.invite(founder));
    let reply = world.ask(BOTH, up(ticket, "both"))?;
    let Reply::Up(up) = reply else { panic!("{reply:?}") };
    Ok(up)
}

/// `BOTH` is in both, and has links in both.
fn linked() -> World {
    let mut world = founded(["home", "work"], [Some("100.70.0.0/16"), Some("100.71.0.0/16")]);
    for founder in [HOME, WORK] {
        assert_eq!(join(&mut world, founder).expect("the invite is good").outcome, UpOutcome::Joined);
    }
    world.pass(secs(3));
    assert!(reaches(&mut world, "home", HOME) && reaches(&mut world, "work", WORK), "{:?}", world.status(BOTH));
    world
}

fn network(world: &World, machine: usize, title: &str) -> Option<NetworkReport> {
    world.status(machine).networks.into_iter().find(|network| network.name == title)
}

fn address(world: &World, machine: usize, title: &str) -> Ipv6Addr {
    let report = network(world, machine, title).expect("the machine is in it");
    let v6 = report.self_addresses.iter().find_map(|ip| match ip {
        IpAddr::V6(ip) => Some(*ip),
        IpAddr::V4(_) => None,
    });
    v6.expect("a member has an address")
}

/// Whether packets pass between `BOTH` and another member of a network, both ways.
pub(super) fn reaches(world: &mut World, title: &str, other: usize) -> bool {
    let (own, theirs) = (address(world, BOTH, title), address(world, other, title));
    for machine in [BOTH, other] {
        world.machines[machine].delivered.clear();
    }
    for _ in 0..5 {
        world.send(BOTH, own, theirs);
        world.send(other, theirs, own);
        world.pass(secs(1));
    }
    let got = |machine: usize, from: Ipv6Addr| {
        world.machines[machine].delivered.iter().any(|packet| packet.get(8..24) == Some(&from.octets()[..]))
    };
    got(BOTH, theirs) && got(other, own)
}

#[test]
fn a_machine_in_two_networks_talks_in_each() {
    let world = linked();
    let status = world.status(BOTH);
    assert_eq!(status.networks.iter().map(|network| network.name.as_str()).collect::<Vec<_>>(), ["home", "work"]);
    assert_ne!(status.networks[0].self_id, status.networks[1].self_id, "a member key of its own in each");
    for peer in &status.peers {
        assert!(peer.name == "boss" && peer.network.is_some() && peer.path.is_some(), "{peer:?}");
    }
    let tun = &world.machines[BOTH].tun;
    assert_eq!((tun.addresses.len(), tun.routes.len()), (4, 4));
    for route in &tun.routes {
        let of = |network: &&NetworkReport| network.self_addresses.contains(&route.source.expect("it has one"));
        let network = status.networks.iter().find(of).expect("its source is our own");
        let peer = status.peers.iter().find(|peer| peer.addresses.contains(&(route.destination, route.prefix)));
        assert_eq!(peer.and_then(|peer| peer.network), Some(network.number), "our address in the same network");
    }
    let names: Vec<&str> = world.machines[BOTH].names.iter().map(|(name, _)| name.as_str()).collect();
    for name in ["boss.home.internal", "both.home.internal", "boss.work.internal", "both.work.internal"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    // The others know one network and one peer each.
    for founder in [HOME, WORK] {
        assert_eq!((world.status(founder).networks.len(), world.status(founder).peers.len()), (1, 1));
    }
}

#[test]
fn networks_do_not_meet_on_a_machine_in_both() {
    let mut world = linked();
    let (home, work) = (address(&world, HOME, "home"), address(&world, WORK, "work"));
    let (own, own_at_work) = (address(&world, BOTH, "home"), address(&world, BOTH, "work"));
    // Members that keep to no rule of their own.
    let boss = world.status(HOME).peers[0].id;
    world.command(HOME, Command::SetOwn { peer: boss, own: [work, own, own_at_work, home].map(IpAddr::V6).to_vec() });
    let allowed = [own, own_at_work].map(|ip| (IpAddr::V6(ip), 128)).to_vec();
    world.command(HOME, Command::AddPeer { peer: boss, allowed, roam: Roam::Fixed, persistent_keepalive: None });
    // A member of one network bears the address of one of the other, of the machine itself, or of the machine there.
    for source in [work, own, own_at_work] {
        world.machines[BOTH].delivered.clear();
        let before = world.discarded(BOTH, Discard::SpoofedSource);
        world.send(HOME, source, own);
        world.pass(secs(1));
        assert_eq!(world.discarded(BOTH, Discard::SpoofedSource), before + 1, "{source}");
        assert!(world.machines[BOTH].delivered.is_empty(), "{source}");
    }
    // It bears its own, but speaks to the machine by its address in the other network.
    let before = world.discarded(BOTH, Discard::ForeignDestination);
    world.send(HOME, home, own_at_work);
    world.pass(secs(1));
    assert_eq!(world.discarded(BOTH, Discard::ForeignDestination), before + 1);
    assert!(world.machines[BOTH].delivered.is_empty());
    // A kernel that answers from that address, or forwards between interfaces, gets nothing across.
    world.machines[WORK].delivered.clear();
    world.machines[HOME].delivered.clear();
    let before = world.discarded(BOTH, Discard::ForeignSource);
    world.send(BOTH, own_at_work, home);
    world.send(BOTH, home, work);
    world.pass(secs(1));
    assert_eq!(world.discarded(BOTH, Discard::ForeignSource), before + 2);
    assert!(world.machines[HOME].delivered.is_empty());
    assert!(world.machines[WORK].delivered.is_empty());
    // A member of one network knows no road to the other.
    let before = world.discarded(WORK, Discard::NoRoute);
    world.send(WORK, work, home);
    assert_eq!(world.discarded(WORK, Discard::NoRoute), before + 1);
}

#[test]
fn a_revocation_in_one_network_leaves_the_other() {
    let mut world = linked();
    let revoked = world.ask(HOME, Request::Revoke { peer: "both".into() });
    assert!(matches!(revoked, Ok(Reply::Revoked { .. })), "{revoked:?}");
    world.pass(secs(5));
    assert_eq!(network(&world, BOTH, "home").map(|network| network.state), Some(NetworkState::Revoked));
    assert_eq!(network(&world, BOTH, "work").map(|network| network.state), Some(NetworkState::Running));
    // Nothing of the one is left on the machine.
    let tun = &world.machines[BOTH].tun;
    let in_work = network(&world, BOTH, "work").expect("it is in it").self_addresses;
    assert!(tun.addresses.iter().all(|(ip, _)| in_work.contains(ip)), "{tun:?}");
    let names = &world.machines[BOTH].names;
    assert!(names.iter().all(|(name, _)| name.ends_with(".work.internal")), "{names:?}");
    // Starting all of them says which one cannot be started.
    assert!(world.ask(BOTH, Request::Down).is_ok());
    let failure = world.ask(BOTH, start()).expect_err("one of two");
    assert!(failure.code == FailureCode::NotJoined && failure.message.contains("home"), "{failure:?}");
    assert!(failure.hint.contains("--network home"), "{failure:?}");
    world.pass(secs(5));
    assert!(world.status(HOME).peers.is_empty());
    assert_eq!(world.status(BOTH).peers.len(), 1);
    assert!(reaches(&mut world, "work", WORK));
}

#[test]
fn what_is_wrong_with_one_of_two_networks_is_told_with_its_name() {
    let mut world = linked();
    let number = network(&world, BOTH, "work").expect("it is in it").number;
    let node = world.machines[BOTH].node.as_mut().expect("it runs");
    let work = node.networks.get_mut(number).expect("it is there");
    work.fork = Some("two histories".to_owned());
    work.forged = Some("an entry against the rules".to_owned());
    work.alarm = Some("something is wrong".to_owned());
    node.report_alarm(number);
    let revoked = world.ask(WORK, Request::Revoke { peer: "both".into() });
    assert!(revoked.is_ok(), "{revoked:?}");
    world.pass(secs(5));
    let node = world.machines[BOTH].node.as_mut().expect("it runs");
    let work = node.networks.get_mut(number).expect("it is there");
    work.links.values_mut().for_each(|link| link.accused = Some("it lies".to_owned()));
    let health = world.status(BOTH).health;
    let codes: Vec<&str> = health.iter().map(|item| item.code).collect();
    assert_eq!(codes, ["forked-log", "forged-entry", "dishonest-server", "not-a-member"]);
    for item in &health {
        assert_eq!(item.network, Some(number), "{item:?}");
        assert!(item.text.starts_with("work: "), "{item:?}");
        let commands: Vec<&str> = item.fix.split('`').filter(|part| part.starts_with("ginnel ")).collect();
        assert!(!commands.is_empty() && commands.iter().all(|text| text.ends_with(" --network work")), "{item:?}");
    }
    let fixes = health.iter().flat_map(|item| item.fix.split('`'));
    let of_servers: Vec<&str> = fixes.filter(|part| part.starts_with("ginnel server ")).collect();
    let [promote, remove] =
        ["promote SERVER", "remove 203.0.113.2:4433"].map(|what| format!("ginnel server {what} --network work"));
    assert_eq!(of_servers, [&promote, &promote, &remove], "as they are to be typed");
    let told = |notice: &Notice| matches!(notice, Notice::Alarm { text } if text == "work: something is wrong");
    assert!(world.machines[BOTH].notices.iter().any(told));
    // Where there is one network alone, nobody has to name it.
    assert!(world.ask_in(BOTH, Some("home"), Request::Leave).is_ok());
    world.pass(secs(5));
    let health = world.status(BOTH).health;
    assert!(!health.is_empty() && health.iter().all(|item| !item.fix.contains("--network")), "{health:?}");
}

#[test]
fn what_cannot_be_undone_needs_the_networks_name() {
    let mut world = linked();
    // HOME's machine is the admin of `home`; it enters the other network as well.
    let ticket = Some(world.invite(WORK));
    assert!(world.ask(HOME, up(ticket, "both-2")).is_ok());
    world.pass(secs(3));
    let revoke = |peer: &str| Request::Revoke { peer: peer.to_owned() };
    let failure = world.ask(HOME, revoke("both")).expect_err("a member called so is in both");
    assert_eq!(failure.code, FailureCode::Ambiguous);
    // Not even where only one of them has such a member: the other may have lost it a moment ago.
    assert_eq!(world.ask(HOME, revoke("boss")).expect_err("not named").code, FailureCode::Ambiguous);
    let revoked = world.ask(HOME, revoke("both.home"));
    assert!(matches!(revoked, Ok(Reply::Revoked { .. })), "{revoked:?}");
}

#[test]
fn a_network_has_no_name_here_before_it_lets_this_machine_in() {
    let mut world = founded(["home", "home"], [Some("100.70.0.0/16"), Some("100.71.0.0/16")]);
    // The first network's join does not come through: its only member that could have made it does not exist any more.
    let ticket = world.invite(HOME);
    world.stop_host(0);
    let pending = world.request(BOTH, None, up(Some(ticket), "both"));
    world.pass(secs(20));
    assert!(world.machines[BOTH].replies.get(&pending).is_some_and(Result::is_err));
    assert_eq!(join(&mut world, WORK).expect("it joins").network, "home");
    world.start_host(0);
    world.pass(secs(60));
    let mut titles: Vec<String> = world.status(BOTH).networks.into_iter().map(|network| network.name).collect();
    titles.sort_unstable();
    assert_eq!(titles, ["home", "home-2"], "who let this machine in first has the name");
    let boss = address(&world, WORK, "home");
    let names = &world.machines[BOTH].names;
    assert!(names.iter().any(|(name, ips)| name == "boss.home.internal" && ips.contains(&boss.into())), "{names:?}");
}

#[test]
fn names_that_others_answer_to_are_refused_to_founders() {
    let mut world = World::new(1, 1);
    for name in ["google", "docker", "ec2", "internal", "localhost"] {
        let ticket = world.founding(0);
        let failure = world.ask(0, founding(ticket, name, None)).expect_err("the name is taken elsewhere");
        assert_eq!(failure.code, FailureCode::Usage, "{name}: {failure:?}");
    }
}

#[test]
fn shields_stay_as_they_are_whatever_networks_come_and_go() {
    let mut world = World::new(1, 2);
    let mut raise = founding(world.founding(0), "home", None);
    if let Request::Up { shields, .. } = &mut raise {
        *shields = Some(Shields::Up);
    }
    assert!(world.ask(0, raise).is_ok());
    assert_eq!(world.machines[0].shields, Some(Shields::Up));
    assert!(world.ask(0, Request::Down).is_ok());
    world.machines[0].shields = None;
    world.stop(0);
    world.start(0);
    assert_eq!(world.machines[0].shields, Some(Shields::Up), "no network runs, and they are up");
    assert!(world.ask(0, Request::Leave).is_ok());
    assert_eq!(world.machines[0].shields, Some(Shields::Up));
    let second = world.founding(1);
    assert!(world.ask(0, founding(second, "work", None)).is_ok());
    assert_eq!(world.machines[0].shields, Some(Shields::Up));
}

fn with(ticket: String, wanted: Shields) -> Request {
    let (name, shields) = (Some("both".to_owned()), Some(wanted));
    Request::Up { ticket: Some(ticket), name, network: None, shields, range: None, ipv4: None }
}

/// An invite to `work` that was taken back.
fn spoilt(world: &mut World) -> String {
    let ticket = world.invite(WORK);
    let invite: Invite = ticket.parse().expect("it is one");
    let id = invite.key().invite_key().to_string();
    assert!(world.ask(WORK, Request::VoidInvite { id }).is_ok());
    world.pass(secs(1));
    ticket
}

#[test]
fn shields_that_are_up_for_one_join_stay_up_by_the_word_of_another() {
    let mut world = founded(["home", "work"], [None, None]);
    let (bad, good) = (spoilt(&mut world), world.invite(HOME));
    let declined = world.request(BOTH, None, with(bad, Shields::Up));
    let joined = world.request(BOTH, None, with(good, Shields::Up));
    world.pass(secs(20));
    let replies = &world.machines[BOTH].replies;
    assert!(replies.get(&declined).is_some_and(Result::is_err) && replies.get(&joined).is_some_and(Result::is_ok));
    assert_eq!(world.machines[BOTH].shields, Some(Shields::Up), "the last word");
    world.stop(BOTH);
    world.start(BOTH);
    assert_eq!(world.machines[BOTH].shields, Some(Shields::Up));
}

#[test]
fn shields_are_not_lowered_with_a_join_after_a_later_word() {
    let mut world = founded(["home", "work"], [None, None]);
    let (first, second) = (world.invite(WORK), world.invite(HOME));
    world.request(BOTH, None, with(first.clone(), Shields::Up));
    let lowering = world.request(BOTH, None, with(first, Shields::Down));
    let raising = world.request(BOTH, None, with(second, Shields::Up));
    world.pass(secs(20));
    let replies = &world.machines[BOTH].replies;
    assert!([lowering, raising].iter().all(|id| replies.get(id).is_some_and(Result::is_ok)), "{replies:?}");
    assert_eq!(world.machines[BOTH].shields, Some(Shields::Up), "the last word");
}

#[test]
fn shields_go_down_with_a_join_that_comes_through_alone() {
    let mut world = founded(["home", "work"], [None, None]);
    join(&mut world, HOME).expect("the invite is good");
    let mut raise = start();
    if let Request::Up { shields, .. } = &mut raise {
        *shields = Some(Shields::Up);
    }
    assert!(world.ask_in(BOTH, Some("home"), raise).is_ok());
    let ticket = spoilt(&mut world);
    assert!(world.ask(BOTH, with(ticket, Shields::Down)).is_err());
    assert_eq!(world.machines[BOTH].shields, Some(Shields::Up));
    let ticket = world.invite(WORK);
    assert!(world.ask(BOTH, with(ticket, Shields::Down)).is_ok());
    assert_eq!(world.machines[BOTH].shields, Some(Shields::Down));
}

#[test]
fn shields_that_went_up_with_a_join_are_not_lowered_by_its_failure() {
    let mut world = founded(["home", "work"], [None, None]);
    join(&mut world, HOME).expect("the invite is good");
    let ticket = spoilt(&mut world);
    world.stop_host(1);
    let raised = world.request(BOTH, None, with(ticket, Shields::Up));
    assert_eq!(world.machines[BOTH].shields, Some(Shields::Up), "before anybody can get in");
    world.pass(secs(20));
    assert!(world.machines[BOTH].replies.get(&raised).is_some_and(Result::is_err));
    // The user has long gone when a server answers.
    world.start_host(1);
    world.pass(secs(60));
    assert_eq!(world.status(BOTH).networks.len(), 1, "the join is over: {:?}", world.status(BOTH).networks);
    assert_eq!(world.machines[BOTH].shields, Some(Shields::Up));
    world.stop(BOTH);
    world.start(BOTH);
    assert_eq!(world.machines[BOTH].shields, Some(Shields::Up));
}

#[test]
fn what_is_wished_for_the_shields_with_a_join_outlives_a_restart() {
    let mut world = founded(["home", "work"], [None, None]);
    let (home, work) = (world.invite(HOME), world.invite(WORK));
    assert!(world.ask(BOTH, with(home, Shields::Up)).is_ok());
    world.stop_host(1);
    let lowered = world.request(BOTH, None, with(work, Shields::Down));
    world.pass(secs(20));
    assert!(world.machines[BOTH].replies.get(&lowered).is_some_and(Result::is_err));
    assert_eq!(world.machines[BOTH].shields, Some(Shields::Up), "not before it has come through");
    world.stop(BOTH);
    world.start(BOTH);
    assert_eq!(world.machines[BOTH].shields, Some(Shields::Up));
    world.start_host(1);
    world.pass(secs(60));
    assert_eq!(network(&world, BOTH, "work").map(|network| network.state), Some(NetworkState::Running));
    assert_eq!(world.machines[BOTH].shields, Some(Shields::Down));
}

#[test]
fn a_networks_range_is_no_path_only_where_its_members_are() {
    let mut world = founded(["home", "work"], [Some("100.70.0.0/16"), Some("10.20.0.0/16")]);
    for founder in [HOME, WORK] {
        join(&mut world, founder).expect("the invite is good");
    }
    world.pass(secs(3));
    assert!(reaches(&mut world, "home", HOME));
    let member = network(&world, WORK, "work").expect("it is in it").self_addresses;
    let member = member.into_iter().find(IpAddr::is_ipv4).expect("it has one");
    let elsewhere = IpAddr::from([10, 20, 200, 7]);
    assert_ne!(member, elsewhere);
    for (ip, probed) in [(member, false), (elsewhere, true)] {
        assert_eq!(is_probed(&mut world, BOTH, "home", ip), probed, "{ip}");
    }
}

#[test]
fn a_members_address_is_no_path_for_those_who_were_there_before() {
    let mut world = linked();
    let own = network(&world, BOTH, "work").expect("it is in it").self_addresses;
    let own = own.into_iter().find(IpAddr::is_ipv4).expect("it has one");
    assert!(!is_probed(&mut world, WORK, "work", own), "{own}");
    assert!(is_probed(&mut world, WORK, "work", IpAddr::from([100, 71, 200, 7])));
}

/// Whether a machine probes an address once its only peer in a network names it as a place of its own.
fn is_probed(world: &mut World, machine: usize, title: &str, ip: IpAddr) -> bool {
    let number = network(world, machine, title).map(|network| network.number);
    let peers = world.status(machine).peers.into_iter();
    let peer = { peers }.find(|peer| peer.network == number).expect("it has one").id;
    let path = world.machines[machine].paths[&peer].expect("it is linked");
    let candidates = vec![Candidate { kind: CandidateKind::Host, addr: (ip, 5000).into() }];
    let plaintext = CandidateList { round: 0, phase: Phase::Update, candidates }.encode();
    world.input(machine, Input::Forward(Event::Control { peer, path, plaintext }));
    world.pass(secs(2));
    world.astray.contains_key(&ip)
}

#[test]
fn a_range_around_an_address_of_this_machine_is_no_networks() {
    let mut world = World::new(2, 2);
    let range = Some("192.168.0.0/16");
    let ticket = world.founding(0);
    let failure = world.ask(0, founding(ticket.clone(), "home", range)).expect_err("this machine is at 192.168.1.2");
    assert_eq!(failure.code, FailureCode::Usage);
    assert!(failure.message.contains("192.168.1.2") && failure.hint.contains("--range 100."), "{failure:?}");
    // So is one that only another program's tunnel or a bridge has.
    world.input(0, Input::Addresses(vec![IpAddr::from([172, 17, 0, 1])]));
    let bridge = founding(ticket.clone(), "home", Some("172.17.0.0/16"));
    let failure = world.ask(0, bridge).expect_err("the bridge is at 172.17.0.1");
    assert!(failure.code == FailureCode::Usage && failure.message.contains("172.17.0.1"), "{failure:?}");
    world.input(0, Input::Interfaces(vec![IpAddr::from([10, 1, 1, 1])]));
    assert!(world.ask(0, founding(ticket, "home", range)).is_ok());
    world.pass(secs(2));
    let ticket = Some(world.invite(0));
    let failure = world.ask(1, up(ticket.clone(), "both")).expect_err("its own place");
    assert!(failure.code == FailureCode::Usage && failure.hint.contains("--no-ipv4"), "{failure:?}");
    let ipv4 = Some(Ipv4Use::Off);
    let by_v6 = Request::Up { ticket, name: Some("both".into()), network: None, shields: None, range: None, ipv4 };
    assert!(world.ask(1, by_v6).is_ok());
    // Nor afterwards.
    world.pass(secs(2));
    let use4 =
        |ipv4| Request::Up { ticket: None, name: None, network: None, shields: None, range: None, ipv4: Some(ipv4) };
    let failure = world.ask(1, use4(Ipv4Use::On)).expect_err("it is still there");
    assert!(failure.code == FailureCode::Usage && failure.message.contains("192.168.1.2"), "{failure:?}");
    world.input(1, Input::Interfaces(vec![IpAddr::from([10, 1, 1, 1])]));
    for _ in 0..2 {
        assert!(world.ask(1, use4(Ipv4Use::On)).is_ok());
    }
}

#[test]
fn a_founder_takes_any_free_range_where_none_of_the_usual_ones_is() {
    let mut world = World::new(1, 1);
    let ticket = world.founding(0);
    let node = world.machines[0].node.as_mut().expect("it runs");
    // The machine itself is at 192.168.1.2.
    node.config_addresses = [([100, 64, 0, 1], 10), ([10, 0, 0, 1], 8), ([172, 16, 0, 1], 12)]
        .map(|(ip, prefix)| (IpAddr::from(ip), prefix))
        .to_vec();
    let failure = world.ask(0, founding(ticket.clone(), "home", None)).expect_err("nothing is free");
    assert!(failure.code == FailureCode::Usage && failure.hint.contains("--no-ipv4"), "{failure:?}");
    world.machines[0].node.as_mut().expect("it runs").config_addresses.pop();
    assert!(world.ask(0, founding(ticket, "home", None)).is_ok());
    world.pass(secs(2));
    let range = network(&world, 0, "home").and_then(|network| network.range4);
    assert_eq!(range, Some((IpAddr::from([172, 16, 0, 0]), 16)));
}

#[test]
fn many_members_of_one_network_do_not_starve_the_other() {
    let mut world = linked();
    world.stop(WORK);
    world.pass(secs(200));
    // As many mails and calls as one network may cause at a time are spent.
    let home = world.machines[BOTH].node.as_mut().and_then(|node| node.networks.iter_mut().next()).expect("it is home");
    let now = world.now;
    while home.mails.take(now) {}
    while home.unproven.take(now) {}
    world.start(WORK);
    let (own, theirs) = (address(&world, BOTH, "work"), address(&world, WORK, "work"));
    world.machines[WORK].delivered.clear();
    for _ in 0..3 {
        world.send(BOTH, own, theirs);
        world.pass(secs(1));
    }
    assert!(!world.machines[WORK].delivered.is_empty(), "{:?}", world.status(BOTH));
}

#[test]
fn leaving_one_network_keeps_the_other() {
    let mut world = linked();
    let unnamed = world.ask(BOTH, Request::Leave).expect_err("it does not say which");
    assert_eq!(unnamed.code, FailureCode::Ambiguous);
    let left = world.ask_in(BOTH, Some("home"), Request::Leave);
    assert!(matches!(&left, Ok(Reply::Left { network }) if network == "home"), "{left:?}");
    world.pass(secs(2));
    assert_eq!(world.status(BOTH).networks.len(), 1);
    assert_eq!((world.machines[BOTH].tun.addresses.len(), world.machines[BOTH].logs.len()), (2, 1));
    assert!(reaches(&mut world, "work", WORK));
    // One is left: nothing needs naming any more.
    assert!(matches!(world.ask(BOTH, Request::Log), Ok(Reply::Log { network, .. }) if network == "work"));
}

#[test]
fn both_networks_outlive_a_restart() {
    let mut world = linked();
    world.stop(BOTH);
    world.pass(secs(20));
    world.start(BOTH);
    let state = world.machines[BOTH].state.clone().expect("it was kept");
    assert_eq!(Node::networks_of(&state).len(), 2, "what is written while starting has both");
    world.pass(secs(5));
    assert!(reaches(&mut world, "home", HOME) && reaches(&mut world, "work", WORK), "{:?}", world.status(BOTH));
}

#[test]
fn a_dead_server_of_one_network_does_not_hurt_the_other() {
    let mut world = linked();
    world.stop_host(0);
    world.pass(secs(60));
    assert_eq!(network(&world, BOTH, "home").map(|network| network.state), Some(NetworkState::NoServer));
    assert_eq!(network(&world, BOTH, "work").map(|network| network.state), Some(NetworkState::Running));
    world.stop(WORK);
    world.pass(secs(200));
    world.start(WORK);
    world.pass(secs(5));
    assert!(reaches(&mut world, "work", WORK) && reaches(&mut world, "home", HOME));
}

#[test]
fn a_request_that_fits_several_networks_names_them() {
    let mut world = linked();
    for request in [Request::Log, Request::Invites, Request::Invite { expires: secs(60), name: None }] {
        let failure = world.ask(BOTH, request).expect_err("it does not say which");
        assert_eq!(failure.code, FailureCode::Ambiguous);
        assert!(failure.message.contains("home, work") && failure.hint.contains("--network"), "{failure:?}");
    }
    // `boss` is in both; a full name, an address or the network tells which.
    let ping = |peer: &str| Request::Ping { peer: peer.to_owned(), timeout: secs(3) };
    assert_eq!(world.ask(BOTH, ping("boss")).expect_err("two are called so").code, FailureCode::Ambiguous);
    for (name, founder) in [("home", HOME), ("work", WORK)] {
        let ip = address(&world, founder, name).to_string();
        for peer in [format!("boss.{name}.internal"), format!("boss.{name}"), ip] {
            let pong = world.ask(BOTH, ping(&peer));
            assert!(matches!(pong, Ok(Reply::Pong { .. })), "{peer}: {pong:?}");
        }
        assert!(matches!(world.ask_in(BOTH, Some(name), ping("boss")), Ok(Reply::Pong { .. })));
        let log = world.ask_in(BOTH, Some(name), Request::Log);
        assert!(matches!(&log, Ok(Reply::Log { network, .. }) if network == name), "{log:?}");
    }
    let id = network(&world, BOTH, "work").expect("it is in it").id;
    let log = world.ask_in(BOTH, Some(&id[..12]), Request::Log);
    assert!(matches!(&log, Ok(Reply::Log { network, .. }) if network == "work"), "{log:?}");
    let none = world.ask_in(BOTH, Some("play"), Request::Log).expect_err("there is no such network");
    assert!(none.code == FailureCode::NoSuchNetwork && none.hint.contains("home, work"), "{none:?}");
    assert_eq!(world.ask(BOTH, ping("boss.play")).expect_err("no such network").code, FailureCode::NoSuch);
}

#[test]
fn down_and_up_without_a_name_are_for_all() {
    let mut world = linked();
    let stopped = world.ask(BOTH, Request::Down);
    assert!(matches!(&stopped, Ok(Reply::Stopped(names)) if *names == ["home", "work"]), "{stopped:?}");
    assert!(world.machines[BOTH].tun.addresses.is_empty() && world.machines[BOTH].names.is_empty());
    let started = world.ask_in(BOTH, Some("work"), start());
    assert!(matches!(&started, Ok(Reply::Up(up)) if up.network == "work" && up.outcome == UpOutcome::Started));
    let all = world.ask(BOTH, start());
    let Ok(Reply::AllUp(all)) = all else { panic!("{all:?}") };
    let outcomes: Vec<_> = all.iter().map(|up| (up.network.as_str(), up.outcome)).collect();
    assert_eq!(outcomes, [("home", UpOutcome::Started), ("work", UpOutcome::Unchanged)]);
    world.pass(secs(5));
    assert!(reaches(&mut world, "home", HOME) && reaches(&mut world, "work", WORK));
    let stopped = world.ask_in(BOTH, Some("home"), Request::Down);
    assert!(matches!(&stopped, Ok(Reply::Stopped(names)) if *names == ["home"]), "{stopped:?}");
    assert!(reaches(&mut world, "work", WORK));
}

#[test]
fn a_join_into_a_range_that_is_taken_is_refused_and_goes_by_ipv6() {
    let range = Some("100.72.0.0/16");
    let mut world = founded(["home", "work"], [range, range]);
    join(&mut world, HOME).expect("the first is free to join");
    let before = world.status(WORK).networks[0].log_length;
    let ticket = Some(world.invite(WORK));
    let failure = world.ask(BOTH, up(ticket.clone(), "both")).expect_err("the range is taken");
    assert_eq!(failure.code, FailureCode::Usage);
    for word in ["network work", "100.72.0.0/16", "home"] {
        assert!(failure.message.contains(word), "{failure:?}");
    }
    assert!(failure.hint.contains("--no-ipv4") && failure.hint.contains("--range"), "{failure:?}");
    world.pass(secs(2));
    assert_eq!(world.status(BOTH).networks.len(), 1, "the refused network is forgotten");
    assert_eq!(world.status(WORK).networks[0].log_length, before + 1, "only the invite was written");
    // The invite was not used up.
    let ipv4 = Some(Ipv4Use::Off);
    let by_v6 = Request::Up { ticket, name: Some("both".into()), network: None, shields: None, range: None, ipv4 };
    let joined = world.ask(BOTH, by_v6);
    assert!(matches!(&joined, Ok(Reply::Up(up)) if up.addresses.iter().all(IpAddr::is_ipv6)), "{joined:?}");
    world.pass(secs(3));
    assert!(reaches(&mut world, "work", WORK) && reaches(&mut world, "home", HOME));
    let tun = &world.machines[BOTH].tun;
    assert_eq!(tun.addresses.iter().filter(|(ip, _)| ip.is_ipv4()).count(), 1);
    assert_eq!(tun.routes.iter().filter(|route| route.destination.is_ipv4()).count(), 1);
    // IPv4 comes on when the other network is gone, and not before.
    let on = || Request::Up {
        ticket: None,
        name: None,
        network: Some("work".into()),
        shields: None,
        range: None,
        ipv4: Some(Ipv4Use::On),
    };
    assert_eq!(world.ask(BOTH, on()).expect_err("still taken").code, FailureCode::Usage);
    assert!(world.ask_in(BOTH, Some("home"), Request::Leave).is_ok());
    let now_on = world.ask(BOTH, on());
    assert!(matches!(&now_on, Ok(Reply::Up(up)) if up.addresses.iter().any(IpAddr::is_ipv4)), "{now_on:?}");
    assert!(reaches(&mut world, "work", WORK));
}

#[test]
fn a_founder_takes_a_range_that_is_free_on_its_machine() {
    let mut evaded = 0;
    for starts in 0..200 {
        let mut world = World::new(1, 2);
        for _ in 0..starts {
            world.stop(0);
            world.start(0);
        }
        let (first, second) = (world.founding(0), world.founding(1));
        assert!(world.ask(0, founding(first, "home", Some("100.72.0.0/16"))).is_ok());
        assert!(world.ask(0, founding(second, "work", None)).is_ok());
        let status = world.status(0);
        let [home, work] = status.networks.as_slice() else { panic!("{status:?}") };
        assert!(home.range4.is_some() && work.range4.is_some() && home.range4 != work.range4, "{status:?}");
        let id: [u8; 32] =
            std::array::from_fn(|at| u8::from_str_radix(&work.id[2 * at..][..2], 16).expect("hexadecimal"));
        let chosen = Ipv4Range::of(&NetworkId::from_bytes(id)).network_address();
        evaded += usize::from(work.range4 != Some((chosen.into(), 16)));
    }
    assert!(evaded > 0, "in no world was the range of the id taken");
}

#[test]
fn a_range_that_is_taken_is_refused_to_a_founder_with_one_that_is_free() {
    let mut world = World::new(1, 2);
    let (first, second) = (world.founding(0), world.founding(1));
    assert!(world.ask(0, founding(first, "home", Some("10.9.0.0/16"))).is_ok());
    let failure = world.ask(0, founding(second.clone(), "work", Some("10.9.0.0/16"))).expect_err("it is taken");
    assert!(failure.code == FailureCode::Usage && failure.message.contains("home"), "{failure:?}");
    assert!(failure.hint.contains("--range 100."), "{failure:?}");
    let wrong = world.ask(0, founding(second.clone(), "work", Some("8.8.0.0/16"))).expect_err("not a private one");
    assert_eq!(wrong.code, FailureCode::Usage);
    let founded = world.ask(0, founding(second, "work", Some("10.10.0.0/16")));
    assert!(matches!(&founded, Ok(Reply::Up(up)) if up.outcome == UpOutcome::Founded), "{founded:?}");
    let ranges: Vec<_> = world.status(0).networks.iter().map(|network| network.range4).collect();
    assert_eq!(ranges, [Some((IpAddr::from([10, 9, 0, 0]), 16)), Some((IpAddr::from([10, 10, 0, 0]), 16))]);
}

#[test]
fn a_second_network_of_the_same_name_gets_a_number_that_stays() {
    let mut world = founded(["home", "home"], [Some("100.70.0.0/16"), Some("100.71.0.0/16")]);
    assert_eq!(join(&mut world, HOME).expect("it joins").network, "home");
    assert_eq!(join(&mut world, WORK).expect("it joins").network, "home-2");
    let names: Vec<String> = world.machines[BOTH].names.iter().map(|(name, _)| name.clone()).collect();
    assert!(names.contains(&"boss.home.internal".to_owned()) && names.contains(&"boss.home-2.internal".to_owned()));
    world.stop(BOTH);
    world.start(BOTH);
    assert!(network(&world, BOTH, "home-2").is_some());
    assert!(world.ask_in(BOTH, Some("home"), Request::Leave).is_ok());
    assert!(network(&world, BOTH, "home-2").is_some(), "a name does not change under its user");
}

#[test]
fn more_networks_than_fit_are_refused() {
    let mut world = World::new(1, 1);
    let server = world.server(0);
    let invite = |number: u8| {
        let key = SigningKey::from_bytes(&[number + 1; 32]);
        let invite =
            Invite::new(std::slice::from_ref(&server), NetworkId::from_bytes([number; 32]), key, u64::MAX / 2, None);
        Some(invite.expect("one server fits").to_string())
    };
    for number in 0..MAX_NETWORKS as u8 {
        world.request(0, None, up(invite(number), "m0"));
    }
    assert_eq!(world.status(0).networks.len(), MAX_NETWORKS);
    let failure = world.ask(0, up(invite(99), "m0")).expect_err("no more fit");
    assert!(failure.code == FailureCode::Usage && failure.message.contains("16"), "{failure:?}");
}
