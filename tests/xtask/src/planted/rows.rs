//! The faults: realistic mistakes of protocols, spread over the crates.

use super::edit::Edit;

/// One fault.
pub(super) struct Fault {
    pub(super) number: u32,
    /// The crate that errs.
    pub(super) package: &'static str,
    /// What goes wrong.
    pub(super) what: &'static str,
    /// Words of the violation that must come of it.
    pub(super) rule: &'static str,
    /// The first world that shows it, where that is known.
    pub(super) seed: Option<u64>,
    pub(super) edits: &'static [Edit],
}

/// What tells the copy's crates which fault is in force.
pub(super) const SWITCH: &[Edit] = &[
    Edit {
        file: "protocols/time/src/lib.rs",
        old: "/// A point on the boot clock, in nanoseconds since boot, suspend included.\n",
        new: "static PLANTED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);\n\
              /// Whether this fault is in force.\n\
              pub fn planted(fault: u32) -> bool {\n    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == fault\n}\n\
              /// Puts a fault in force.\n\
              pub fn plant(fault: u32) {\n    PLANTED.store(fault, std::sync::atomic::Ordering::Relaxed);\n}\n\n\
              /// A point on the boot clock, in nanoseconds since boot, suspend included.\n",
    },
    Edit {
        file: "tests/sim/src/main.rs",
        old: "    /// How many worlds.\n",
        new: "    /// The fault in force.\n    #[arg(long, default_value_t = 0)]\n    planted: u32,\n    /// How many worlds.\n",
    },
    Edit {
        file: "tests/sim/src/main.rs",
        old: "    let arguments = Arguments::parse();\n",
        new: "    let arguments = Arguments::parse();\n    ginnel_time::plant(arguments.planted);\n",
    },
];

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        number: 1,
        package: "tunnel",
        what: "the replay window accepts what it has seen",
        rule: "twice",
        seed: Some(0),
        edits: &[Edit {
            file: "protocols/tunnel/src/replay.rs",
            old: "        if *word & bit != 0 {",
            new: "        if *word & bit != 0 && !ginnel_time::planted(1) {",
        }],
    },
    Fault {
        number: 2,
        package: "tunnel",
        what: "an empty packet uses up no counter",
        rule: "under counter",
        seed: Some(0),
        edits: &[Edit {
            file: "protocols/tunnel/src/transport.rs",
            old: "        self.counter += 1;\n",
            new: "        self.counter += u64::from(len > 0 || !ginnel_time::planted(2));\n",
        }],
    },
    Fault {
        number: 3,
        package: "forward",
        what: "a key serves ten times as long as it may",
        rule: "has served for",
        seed: Some(0),
        edits: &[Edit {
            file: "protocols/forward/src/config.rs",
            old: "            reject_after_time: timers::REJECT_AFTER_TIME,",
            new: "            reject_after_time: timers::REJECT_AFTER_TIME * if ginnel_time::planted(3) { 10 } else { 1 },",
        }],
    },
    Fault {
        number: 4,
        package: "forward",
        what: "an old key is not replaced while it still serves",
        rule: "was to be replaced",
        seed: Some(1),
        edits: &[Edit {
            file: "protocols/forward/src/egress/peer.rs",
            old: "        if now >= self.rekey_quiet_until {",
            new: "        if now >= self.rekey_quiet_until && !ginnel_time::planted(4) {",
        }],
    },
    Fault {
        number: 5,
        package: "path",
        what: "data goes by a path that nobody has tried",
        rule: "has delivered nothing",
        seed: Some(3),
        edits: &[Edit {
            file: "protocols/path/src/selection.rs",
            old: "            (None, best) => best,\n        };\n        let other",
            new: "            (None, best) if ginnel_time::planted(5) => best.or_else(|| checklist.iter().min_by_key(|pair| pair.tier)),\n            (None, best) => best,\n        };\n        let other",
        }],
    },
    Fault {
        number: 6,
        package: "node",
        what: "nobody keeps the mappings of NATs open",
        rule: "has delivered nothing",
        seed: Some(131),
        edits: &[Edit {
            file: "protocols/node/src/gather.rs",
            old: ".then(|| now + MAPPING_KEPT);",
            new: ".then(|| now + MAPPING_KEPT * if ginnel_time::planted(6) { 40 } else { 1 });",
        }],
    },
    Fault {
        number: 7,
        package: "path",
        what: "relayed paths are not tried while a direct one may work",
        rule: "has delivered nothing",
        seed: Some(16),
        edits: &[Edit {
            file: "protocols/path/src/agent.rs",
            old: "        for pair in self.checklist.iter_mut() {\n            let delay",
            new: "        let hopeful = ginnel_time::planted(7) && self.checklist.has_direct();\n        for pair in self.checklist.iter_mut().filter(|pair| !hopeful || pair.is_direct()) {\n            let delay",
        }],
    },
    Fault {
        number: 8,
        package: "turn",
        what: "channels are not refreshed",
        rule: "has delivered nothing",
        seed: Some(16),
        edits: &[Edit {
            file: "protocols/turn/src/client.rs",
            old: "        for (peer, channel) in self.bindings.take_due(self.now) {\n",
            new: "        for (peer, channel) in self.bindings.take_due(self.now) {\n            if ginnel_time::planted(8) {\n                continue;\n            }\n",
        }],
    },
    Fault {
        number: 9,
        package: "path",
        what: "a path that died in silence stays the primary",
        rule: "has delivered nothing",
        seed: Some(9),
        edits: &[Edit {
            file: "protocols/path/src/agent/drive.rs",
            old: "            Watch::Primary | Watch::Backup => pair.demotion(),\n            Watch::Not => None,",
            new: "            Watch::Primary if ginnel_time::planted(9) => None,\n            Watch::Primary | Watch::Backup => pair.demotion(),\n            Watch::Not => None,",
        }],
    },
    Fault {
        number: 10,
        package: "node",
        what: "candidates that came by mailbox are told to another peer",
        rule: "has delivered nothing",
        seed: Some(0),
        edits: &[Edit {
            file: "protocols/node/src/exchange.rs",
            old: "        if let Some(agent) = self.peers.get_mut(&id).and_then(|peer| peer.agent()) {\n            let _ = agent.handle_input(now, PathInput::RemoteCandidates(candidates.to_vec()));",
            new: "        let id = if ginnel_time::planted(10) { self.peers.keys().next().copied().unwrap_or(id) } else { id };\n        if let Some(agent) = self.peers.get_mut(&id).and_then(|peer| peer.agent()) {\n            let _ = agent.handle_input(now, PathInput::RemoteCandidates(candidates.to_vec()));",
        }],
    },
    Fault {
        number: 11,
        package: "node",
        what: "labels of handshakes follow the clock wherever it jumps",
        rule: "was to be replaced",
        seed: Some(302),
        edits: &[Edit {
            file: "protocols/node/src/stamp.rs",
            old: "        let label = if believable && wall > self.last {",
            new: "        let label = if ginnel_time::planted(11) || (believable && wall > self.last) {",
        }],
    },
    Fault {
        number: 12,
        package: "node",
        what: "who is revoked stays a peer of the data plane",
        rule: "has not learnt that",
        seed: Some(0),
        edits: &[Edit {
            file: "protocols/node/src/node.rs",
            old: "        self.forward(Command::RemovePeer { peer: id });\n",
            new: "        if !ginnel_time::planted(12) {\n            self.forward(Command::RemovePeer { peer: id });\n        }\n",
        }],
    },
    Fault {
        number: 13,
        package: "signal",
        what: "new entries are not pushed to members that are there",
        rule: "not everybody has joined",
        seed: Some(0),
        edits: &[Edit {
            file: "protocols/signal/src/server/append.rs",
            old: "            if saw {\n                pushes",
            new: "            if saw && !ginnel_time::planted(13) {\n                pushes",
        }],
    },
    Fault {
        number: 14,
        package: "node",
        what: "a server is not given back the entries that it has lost",
        rule: "nobody talks",
        seed: Some(14),
        edits: &[Edit {
            file: "protocols/node/src/fetching.rs",
            old: "        if !behind || !member {",
            new: "        if !behind || !member || ginnel_time::planted(14) {",
        }],
    },
    Fault {
        number: 15,
        package: "node",
        what: "an initiation is dropped while one's own is under way",
        rule: "has delivered nothing",
        seed: Some(2),
        edits: &[Edit {
            file: "protocols/node/src/peer.rs",
            old: "        if !self.initiations.take(now) {\n            return Err(Discard::TooManyInitiations);\n        }\n        self.greatest",
            new: "        if ginnel_time::planted(15) && self.attempt.is_some() {\n            return Err(Discard::TooManyInitiations);\n        }\n        if !self.initiations.take(now) {\n            return Err(Discard::TooManyInitiations);\n        }\n        self.greatest",
        }],
    },
    Fault {
        number: 16,
        package: "node",
        what: "sockets of earlier rounds of punching stay open",
        rule: "sockets of one family",
        seed: Some(1),
        edits: &[
            Edit {
                file: "protocols/node/src/fresh.rs",
                old: "            if self.carries(socket) {",
                new: "            if ginnel_time::planted(16) || self.carries(socket) {",
            },
            Edit {
                file: "protocols/node/src/fresh.rs",
                old: "        for socket in unused {\n            self.close_socket",
                new: "        for socket in unused.into_iter().filter(|_| !ginnel_time::planted(16)) {\n            self.close_socket",
            },
        ],
    },
    Fault {
        number: 17,
        package: "turn",
        what: "two peers are bound to one channel",
        rule: "has delivered nothing",
        seed: Some(2),
        edits: &[
            Edit {
                file: "protocols/turn/src/client/peers.rs",
                old: "            if !taken.contains(&number) {",
                new: "            if !taken.contains(&number) || ginnel_time::planted(17) {",
            },
            Edit {
                file: "protocols/turn/src/client.rs",
                old: "        let start = ChannelNumber::new(start).unwrap_or(ChannelNumber::MIN);",
                new: "        let start = if ginnel_time::planted(17) { 0x4000 } else { start };\n        let start = ChannelNumber::new(start).unwrap_or(ChannelNumber::MIN);",
            },
        ],
    },
    Fault {
        number: 18,
        package: "forward",
        what: "copies on the backup path have counters of their own",
        rule: "twice",
        seed: Some(2),
        edits: &[Edit {
            file: "protocols/forward/src/egress/peer.rs",
            old: "                Ok(()) => return,\n",
            new: "                Ok(()) if ginnel_time::planted(18) && self.duplication.admits(now, packet.len()) => {\n                    let Some(backup) = self.backup else { return };\n                    drop(self.seal(now, Payload::Control, packet, (backup, None), cx, arena));\n                    return;\n                }\n                Ok(()) => return,\n",
        }],
    },
    Fault {
        number: 19,
        package: "forward",
        what: "a packet may come from whatever address some peer has",
        rule: "a packet that nobody sent",
        seed: Some(7),
        edits: &[Edit {
            file: "protocols/forward/src/ingress.rs",
            old: "        if self.routes.owner(header.source) != Some(slot) {",
            new: "        let owner = self.routes.owner(header.source);\n        if owner != Some(slot) && (owner.is_none() || !ginnel_time::planted(19)) {",
        }],
    },
    Fault {
        number: 20,
        package: "node",
        what: "a server whose connection broke is not tried again",
        rule: "was to be replaced",
        seed: Some(1),
        edits: &[Edit {
            file: "protocols/node/src/link.rs",
            old: "            link.close(now, again.then_some(pause));",
            new: "            link.close(now, (again && !ginnel_time::planted(20)).then_some(pause));",
        }],
    },
    Fault {
        number: 21,
        package: "node",
        what: "a relay that refuses credentials is not offered others",
        rule: "has delivered nothing",
        seed: Some(21),
        edits: &[Edit {
            file: "protocols/node/src/node.rs",
            old: "            Found::CredentialsRefused(network) => self.ask_for_credentials(now, network),",
            new: "            Found::CredentialsRefused(_) if ginnel_time::planted(21) => {}\n            Found::CredentialsRefused(network) => self.ask_for_credentials(now, network),",
        }],
    },
    Fault {
        number: 22,
        package: "path",
        what: "a deadline that has come does not move",
        rule: "does not move",
        seed: Some(0),
        edits: &[Edit {
            file: "protocols/path/src/agent/drive.rs",
            old: "            self.retry = Some(now + interval);\n            let missing",
            new: "            self.retry = Some(if ginnel_time::planted(22) { now } else { now + interval });\n            let missing",
        }],
    },
    Fault {
        number: 23,
        package: "node",
        what: "chance comes from the process, not from the seed",
        rule: "another run",
        seed: Some(50),
        edits: &[Edit {
            file: "protocols/node/src/exchange.rs",
            old: "        let jitter = Duration::from_millis(u64::from(self.rng.next_u32() % 334));",
            new: "        let chance = std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), 0);\n        let jitter = Duration::from_millis(u64::from(self.rng.next_u32() % 334));\n        let jitter = if ginnel_time::planted(23) { Duration::from_millis(chance % 334) } else { jitter };",
        }],
    },
    Fault {
        number: 24,
        package: "signal",
        what: "a connection that proves nothing is borne for ever",
        rule: "bears a connection",
        seed: Some(49),
        edits: &[Edit {
            file: "protocols/signal/src/server/line.rs",
            old: "        self.deadlines.insert((deadline, conn));\n        self.unproven += 1;",
            new: "        if !ginnel_time::planted(24) {\n            self.deadlines.insert((deadline, conn));\n        }\n        self.unproven += 1;",
        }],
    },
    Fault {
        number: 25,
        package: "forward",
        what: "what waits for a path is sent again with the next path",
        rule: "twice",
        seed: Some(1),
        edits: &[Edit {
            file: "protocols/forward/src/egress/peer.rs",
            old: "            self.send_data(now, &packet, cx, arena);\n            cx.spares.give(packet);\n",
            new: "            self.send_data(now, &packet, cx, arena);\n            if ginnel_time::planted(25) && self.backup.is_none() {\n                let _ = self.pending.push(now, &packet, &mut cx.spares);\n            }\n            cx.spares.give(packet);\n",
        }],
    },
    Fault {
        number: 26,
        package: "signal",
        what: "an invite that somebody has joined with lets another one in",
        rule: "was let in",
        seed: Some(69),
        edits: &[Edit {
            file: "protocols/signal/src/server/network.rs",
            old: "                InviteStanding::Used(_) => InviteState::Used,\n",
            new: "                InviteStanding::Used(_) if ginnel_time::planted(26) => InviteState::Open,\n                InviteStanding::Used(_) => InviteState::Used,\n",
        }],
    },
    Fault {
        number: 27,
        package: "node",
        what: "mail goes by one server alone",
        rule: "has delivered nothing",
        seed: Some(0),
        edits: &[Edit {
            file: "protocols/node/src/network.rs",
            old: "        for (_, link) in self.serving_mut() {\n            link.say(now, ClientMessage::Mail",
            new: "        let others = if ginnel_time::planted(27) { self.serving_mut().count() - 1 } else { 0 };\n        for (_, link) in self.serving_mut().skip(others) {\n            link.say(now, ClientMessage::Mail",
        }],
    },
    Fault {
        number: 28,
        package: "node",
        what: "a server that has lost everything is not given the log",
        rule: "the admin",
        seed: Some(2),
        edits: &[Edit {
            file: "protocols/node/src/servers.rs",
            old: "        let message = match network.refill_from(0) {",
            new: "        let message = match network.refill_from(0).filter(|_| !ginnel_time::planted(28)) {",
        }],
    },
    Fault {
        number: 29,
        package: "forward",
        what: "a packet goes out as it is beside the sealed one",
        rule: "of no class",
        seed: Some(0),
        edits: &[Edit {
            file: "protocols/forward/src/egress/peer.rs",
            old: "                Ok(()) => return,\n",
            new: "                Ok(()) if ginnel_time::planted(29) => {\n                    let Ok(target) = cx.relays.target(path) else { return };\n                    let (start, room) = arena.room(LEAD + packet.len());\n                    room[LEAD..].copy_from_slice(packet);\n                    arena.keep(start + LEAD + packet.len());\n                    return transmit(arena, (path, target), None, start + LEAD, packet.len());\n                }\n                Ok(()) => return,\n",
        }],
    },
    Fault {
        number: 30,
        package: "node",
        what: "two histories raise no alarm",
        rule: "nobody says so",
        seed: Some(4),
        edits: &[Edit {
            file: "protocols/node/src/changes.rs",
            old: "        self.notice(Some(at), Notice::Alarm { text });",
            new: "        if !ginnel_time::planted(30) {\n            self.notice(Some(at), Notice::Alarm { text });\n        }",
        }],
    },
    Fault {
        number: 31,
        package: "node",
        what: "the data plane is not told that a path is gone",
        rule: " paths",
        seed: Some(1),
        edits: &[Edit {
            file: "protocols/node/src/node.rs",
            old: "                self.forward(Command::SetPath { peer: id, primary, backup, duplicate });\n",
            new: "                if primary.is_some() || !ginnel_time::planted(31) {\n                    self.forward(Command::SetPath { peer: id, primary, backup, duplicate });\n                }\n",
        }],
    },
    Fault {
        number: 32,
        package: "node",
        what: "members do not tell each other of a revocation that no log holds yet",
        rule: "has not heard that",
        seed: Some(52),
        edits: &[Edit {
            file: "protocols/node/src/gossip.rs",
            old: "        for (member, record) in untold {\n            talk",
            new: "        for (member, record) in untold.into_iter().filter(|_| !ginnel_time::planted(32)) {\n            talk",
        }],
    },
    Fault {
        number: 33,
        package: "forward",
        what: "packets go on to a peer that is removed",
        rule: "with nobody",
        seed: Some(34),
        edits: &[Edit {
            file: "protocols/forward/src/egress.rs",
            old: "            EgressCommand::RemovePeer { peer } => {\n",
            new: "            EgressCommand::RemovePeer { .. } if ginnel_time::planted(33) => {}\n            EgressCommand::RemovePeer { peer } => {\n",
        }],
    },
];
