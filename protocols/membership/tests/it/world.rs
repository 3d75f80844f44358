//! A network with known keys, and a sequencer that may be dishonest.

use ginnel_membership::build::{self, Charter, Founded, NewKeys};
use ginnel_membership::keys::{NetworkId, Server, ServerKeys, SigningKey, TunnelKey};
use ginnel_membership::record::{AdminChange, Delegate, Freshness, Policy, Rights, ServersChange};
use ginnel_membership::{Applied, Capabilities, Context, Entry, MemberKey, Name, Refusal, Sequencer, Signature, State};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;

pub(crate) const START: u64 = 1_800_000_000;
pub(crate) const DAY: u64 = 86_400;

/// Keys of a machine that could join.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) key: SigningKey,
    pub(crate) tunnel: TunnelKey,
    pub(crate) invite: SigningKey,
}

impl Machine {
    pub(crate) fn new(seed: u8) -> Self {
        let secret = x25519_dalek::StaticSecret::from([seed; 32]);
        Self {
            key: SigningKey::from_bytes(&[seed; 32]),
            tunnel: TunnelKey::from_bytes(x25519_dalek::PublicKey::from(&secret).to_bytes()),
            invite: SigningKey::from_bytes(&[seed ^ 0x80; 32]),
        }
    }

    pub(crate) fn id(&self) -> MemberKey {
        self.key.member_key()
    }
}

pub(crate) struct World {
    pub(crate) network: NetworkId,
    pub(crate) admin: SigningKey,
    pub(crate) sequencer: Sequencer,
    /// A mirror on the other server, which follows every entry.
    pub(crate) standby: Sequencer,
    pub(crate) log: Vec<Entry>,
    pub(crate) now: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        let Founded { genesis, network, admin } =
            build::found(&mut ChaCha20Rng::from_seed([1; 32]), charter()).expect("a good charter");
        let (sequencer, entry) = Sequencer::found(server_key(), START, &genesis).expect("a good genesis");
        Self::with(network, admin, sequencer, entry)
    }

    pub(crate) fn with(network: NetworkId, admin: SigningKey, sequencer: Sequencer, entry: Entry) -> Self {
        let mut standby = Sequencer::mirror(standby_key(), network);
        standby.apply(&entry).expect("a mirror takes the genesis");
        Self { network, admin, sequencer, standby, log: vec![entry], now: START }
    }

    /// Takes an entry as both servers do.
    pub(crate) fn order(&mut self, entry: &Entry) -> Applied {
        let applied = self.sequencer.apply(entry).expect("the entry continues the log");
        if entry.sequence == self.log.len() as u64 {
            let followed = self.standby.apply(entry);
            assert!(applied == Applied::Known && followed.is_ok() || followed == Ok(applied));
            self.log.push(entry.clone());
        }
        if self.standby.is_sequencer() {
            std::mem::swap(&mut self.sequencer, &mut self.standby);
        }
        applied
    }

    pub(crate) fn append(&mut self, record: &[u8]) -> Result<Entry, Refusal> {
        let entry = self.sequencer.append(self.now, record)?;
        self.order(&entry);
        Ok(entry)
    }

    pub(crate) fn invite(&mut self, machine: &Machine) {
        let record = self.invite_record(machine);
        self.append(&record).expect("an admin invites");
    }

    pub(crate) fn invite_record(&self, machine: &Machine) -> Vec<u8> {
        build::invite_record(&self.network, &self.admin, machine.invite.invite_key(), self.now + DAY, None)
    }

    pub(crate) fn member_record(&self, machine: &Machine, name: &str) -> Vec<u8> {
        let Machine { key, tunnel, invite } = machine;
        build::member_record(&self.network, invite, key, *tunnel, self::name(name), Capabilities::BOTH_SUITES)
    }

    pub(crate) fn update_record(&self, machine: &Machine, number: u64, name: &str) -> Vec<u8> {
        let keys = NewKeys::None;
        build::update_record(&self.network, &machine.key, number, self::name(name), Capabilities::CHACHA_POLY, keys)
    }

    pub(crate) fn revoke_record(&self, machine: &Machine) -> Vec<u8> {
        build::revoke_record(&self.network, &self.admin, machine.id())
    }

    pub(crate) fn lease_record(&self) -> Vec<u8> {
        build::lease_record(&self.network, &self.admin, self.state().head(), self.now)
    }

    pub(crate) fn join(&mut self, machine: &Machine, name: &str) -> Result<Entry, Refusal> {
        self.invite(machine);
        let record = self.member_record(machine, name);
        self.append(&record)
    }

    pub(crate) fn state(&self) -> &State {
        self.sequencer.state()
    }

    pub(crate) fn replay(&self) -> State {
        replay(self.network, &self.log)
    }

    /// An entry at the log's end as a dishonest sequencer would sign it, whatever the record.
    pub(crate) fn forge(&self, record: &[u8]) -> Entry {
        let key =
            if self.state().sequencer() == Some(server_key().sequencer_key()) { server_key() } else { standby_key() };
        self.forge_by(&key, record)
    }

    /// An entry at the log's end as anybody could sign it.
    pub(crate) fn forge_by(&self, key: &SigningKey, record: &[u8]) -> Entry {
        let (sequence, previous) = self.state().head();
        let time = self.now.max(self.state().time());
        let (record, signature) = (record.to_vec(), Signature::from_bytes([0; 64]));
        sign_by(key, self.network, Entry { sequence, previous, time, record, signature })
    }

    /// A change of servers that names both, signed by the admin.
    pub(crate) fn servers_record(&self, sequencer: &SigningKey) -> Vec<u8> {
        let (number, sequencer) = (self.state().next_servers(), sequencer.sequencer_key());
        let servers = vec![server(), standby_server()];
        build::servers_record(&self.network, &self.admin, ServersChange { number, sequencer, servers })
            .expect("good servers")
    }

    pub(crate) fn admin_change_record(&self, by: &[&SigningKey], threshold: u8, admins: &[MemberKey]) -> Vec<u8> {
        let mut admins = admins.to_vec();
        admins.sort();
        let change = AdminChange { number: self.state().next_admin_change(), threshold, admins };
        build::admin_change_record(&self.network, by, change).expect("a good set")
    }

    pub(crate) fn policy_record(
        &self,
        by: &[&SigningKey],
        freshness: Freshness,
        delegates: &[(MemberKey, Rights)],
    ) -> Vec<u8> {
        let mut delegates: Vec<_> = delegates.iter().map(|&(member, rights)| Delegate { member, rights }).collect();
        delegates.sort();
        let policy = Policy { number: self.state().next_policy(), freshness, delegates };
        build::policy_record(&self.network, by, policy).expect("a good policy")
    }

    pub(crate) fn rotation_record(&self, old: &Machine, number: u64, name: &str, new: &Machine) -> Vec<u8> {
        let keys = NewKeys::Both(&new.key, new.tunnel);
        build::update_record(&self.network, &old.key, number, self::name(name), Capabilities::BOTH_SUITES, keys)
    }

    pub(crate) fn checkpoint_record(&self) -> Vec<u8> {
        let checkpoint = self.state().make_checkpoint().expect("a founded network");
        build::checkpoint_record(&self.network, &self.admin, checkpoint)
    }
}

pub(crate) fn forge(network: NetworkId, sequence: u64, previous: [u8; 32], time: u64, record: &[u8]) -> Entry {
    let signature = Signature::from_bytes([0; 64]);
    let entry = Entry { sequence, previous, time, record: record.to_vec(), signature };
    sign(network, entry)
}

pub(crate) fn sign(network: NetworkId, entry: Entry) -> Entry {
    sign_by(&server_key(), network, entry)
}

pub(crate) fn sign_by(key: &SigningKey, network: NetworkId, mut entry: Entry) -> Entry {
    let bytes = entry.encode();
    let message = [network.as_bytes(), &bytes[..bytes.len() - 64]].concat();
    entry.signature = key.sign(Context::ENTRY, &message);
    entry
}

pub(crate) fn replay(network: NetworkId, log: &[Entry]) -> State {
    let mut state = State::new(network);
    for entry in log {
        state.apply(entry).expect("an honest log continues itself");
    }
    state
}

pub(crate) fn charter() -> Charter {
    let servers = vec![server()];
    let sequencer = servers[0].keys.sequencer();
    Charter { name: name("attic"), sequencer, servers, ipv4_range: None, now: START }
}

pub(crate) fn server() -> Server {
    Server {
        addresses: vec!["192.0.2.1:4433".to_owned(), "[2001:db8::1]:4433".to_owned()],
        keys: ServerKeys { signing: server_key().sequencer_key().to_bytes(), noise: [9; 32] },
    }
}

pub(crate) fn standby_server() -> Server {
    let signing = standby_key().sequencer_key().to_bytes();
    Server { addresses: vec!["198.51.100.1:4433".to_owned()], keys: ServerKeys { signing, noise: [8; 32] } }
}

/// The key of the server that mirrors at first.
pub(crate) fn standby_key() -> SigningKey {
    SigningKey::from_bytes(&[0x5b; 32])
}

pub(crate) fn server_key() -> SigningKey {
    SigningKey::from_bytes(&[0x5e; 32])
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("a good name")
}
