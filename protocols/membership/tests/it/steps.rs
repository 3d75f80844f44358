//! Random lives of a network.

use ginnel_membership::State;
use ginnel_membership::record::{Freshness, Rights};
use proptest::prelude::*;

use crate::world::{DAY, Machine, World, server_key, standby_key};

/// One attempt at changing the network; most fit some state, none fits all.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Invite(u8),
    Void(u8),
    Join {
        machine: u8,
        invite: u8,
        wish: u8,
    },
    Update {
        machine: u8,
        number: u64,
        wish: u8,
    },
    Revoke(u8),
    Lease,
    Rotate {
        machine: u8,
        to: u8,
        number: u64,
        wish: u8,
    },
    /// The founding admin and these machines' keys.
    Admins {
        with: u8,
        threshold: u8,
    },
    Policy {
        delegate: u8,
        rights: u8,
        freshness: Freshness,
    },
    DelegateInvites {
        delegate: u8,
        machine: u8,
    },
    Servers {
        standby: bool,
    },
    Checkpoint,
    Wait(u64),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Server {
    /// Refuses what means nothing.
    Honest,
    /// Orders everything.
    Dishonest,
}

pub(crate) fn server() -> impl Strategy<Value = Server> {
    prop_oneof![Just(Server::Honest), Just(Server::Dishonest)]
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let machine = 1_u8..7;
    prop_oneof![
        3 => machine.clone().prop_map(Step::Invite),
        1 => machine.clone().prop_map(Step::Void),
        4 => (machine.clone(), machine.clone(), 0_u8..3).prop_map(|(machine, invite, wish)| Step::Join { machine, invite, wish }),
        2 => (machine.clone(), 1_u64..4, 0_u8..3).prop_map(|(machine, number, wish)| Step::Update { machine, number, wish }),
        1 => machine.clone().prop_map(Step::Revoke),
        1 => Just(Step::Lease),
        2 => (machine.clone(), 1_u8..9, 1_u64..4, 0_u8..3)
            .prop_map(|(machine, to, number, wish)| Step::Rotate { machine, to, number, wish }),
        1 => (machine.clone(), prop_oneof![4 => Just(1_u8), 1 => Just(2_u8)]).prop_map(|(with, threshold)| Step::Admins { with, threshold }),
        1 => (machine.clone(), 1_u8..4, any::<bool>()).prop_map(|(delegate, rights, strict)| Step::Policy {
            delegate,
            rights,
            freshness: if strict { Freshness::Strict } else { Freshness::Warn },
        }),
        1 => (machine.clone(), machine)
            .prop_map(|(delegate, machine)| Step::DelegateInvites { delegate, machine }),
        1 => any::<bool>().prop_map(|standby| Step::Servers { standby }),
        1 => Just(Step::Checkpoint),
        1 => (0_u64..60_000).prop_map(Step::Wait),
    ]
}

/// Tries a step.
pub(crate) fn take(world: &mut World, step: Step, server: Server) {
    let wishes = ["laptop", "server", "localhost"];
    let record = match step {
        Step::Invite(machine) => world.invite_record(&Machine::new(machine)),
        Step::Void(machine) => {
            let key = Machine::new(machine).invite.invite_key();
            ginnel_membership::build::void_record(&world.network, &world.admin, key)
        }
        Step::Join { machine, invite, wish } => {
            let joiner = Machine { invite: Machine::new(invite).invite, ..Machine::new(machine) };
            world.member_record(&joiner, wishes[usize::from(wish)])
        }
        Step::Update { machine, number, wish } => {
            world.update_record(&Machine::new(machine), number, wishes[usize::from(wish)])
        }
        Step::Revoke(machine) => world.revoke_record(&Machine::new(machine)),
        Step::Lease => world.lease_record(),
        Step::Rotate { machine, to, number, wish } => {
            world.rotation_record(&Machine::new(machine), number, wishes[usize::from(wish)], &Machine::new(to))
        }
        Step::Admins { with, threshold } => {
            let (other, admin) = (Machine::new(with), world.admin.clone());
            let both = [&admin, &other.key];
            let by = if world.state().is_admin(&other.id()) { &both[..] } else { &both[..1] };
            world.admin_change_record(by, threshold, &[admin.member_key(), other.id()])
        }
        Step::Policy { delegate, rights, freshness } => {
            let rights = Rights::from_bits(rights).unwrap();
            world.policy_record(&[&world.admin], freshness, &[(Machine::new(delegate).id(), rights)])
        }
        Step::DelegateInvites { delegate, machine } => {
            let key = Machine::new(machine).invite.invite_key();
            let by = Machine::new(delegate).key;
            ginnel_membership::build::invite_record(&world.network, &by, key, world.now + DAY, None)
        }
        Step::Servers { standby } => world.servers_record(&if standby { standby_key() } else { server_key() }),
        Step::Checkpoint => world.checkpoint_record(),
        Step::Wait(seconds) => {
            world.now += seconds;
            return;
        }
    };
    match server {
        Server::Honest => {
            let _ = world.append(&record);
        }
        Server::Dishonest => {
            let entry = world.forge(&record);
            world.order(&entry);
        }
    }
}

/// What must hold in every state.
pub(crate) fn check(state: &State) {
    let live: Vec<_> = state.members().filter(|member| state.is_live(&member.key())).collect();
    let distinct = |values: Vec<String>| {
        let count = values.len();
        let mut values = values;
        values.sort();
        values.dedup();
        assert_eq!(values.len(), count);
    };
    distinct(live.iter().map(|member| member.name().to_string()).collect());
    distinct(state.members().filter_map(|member| member.ipv4()).map(|addr| addr.to_string()).collect());
    distinct(state.members().map(|member| member.ipv6().to_string()).collect());
    distinct(state.members().map(|member| member.tunnel_key().to_string()).collect());
    distinct(state.members().map(|member| member.invite().to_string()).collect());
    for member in &live {
        assert!(!member.name().is_reserved());
        let peers = state.peers(&member.key());
        assert_eq!(peers.len(), live.len() - 1);
        assert!(peers.iter().all(|peer| !state.is_revoked(&peer.member()) && peer.member() != member.key()));
    }
}
