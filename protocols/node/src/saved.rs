//! What a node keeps in the state folder, and its encoding.
//!
//! A version byte, 5, then the fields below in postcard's encoding. The shell adds a checksum and writes atomically.
//!
//! | field | meaning |
//! |---|---|
//! | reserve | TAI64N label that no sent initiation has passed |
//! | shields | whether connections that peers open are refused |
//! | networks | at most 16, in the order in which they were joined; of each: its id, servers (addresses, keys), the member's Ed25519 seed, the X25519 secret, the admin's Ed25519 seed if held, the stage (founding with token and genesis; joining with the invite's seed; member), the wished name, the switch, revocations that are not ordered yet, the token that founded it, the last direct endpoints of members, Unix seconds that have certainly passed, the keys to follow the present ones, the network's name on this machine where another one has its own, whether its IPv4 addresses are used, what the own clock said when those seconds had passed, the length of the longest log that was verified and the hash of its last entry, whether the shields go down once a join comes through |
//!
//! Versions before are read: 4 ended with the hash; 3 ended with the use of IPv4; 1 and 2 have one network or none, with its shields before the revocations; 2 ended with the
//! endpoints, 1 with the revocations.

use ginnel_membership::{NetworkId, Server, SigningKey};
use ginnel_time::Tai64n;
use ginnel_tunnel::StaticSecret;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::networks::Ipv4Use;
use crate::recent::Recent;

/// The saved state cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadState {
    /// Written by a newer program.
    #[error("state is of version {0}, which this program does not know; use the version that wrote it, or a newer one")]
    Newer(u8),
    /// Not what this program writes.
    #[error("state does not decode; restore it from a backup, or remove it to start anew")]
    Broken,
}

/// The whole of it.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Saved {
    reserve: [u8; 12],
    pub(crate) shields: SavedShields,
    pub(crate) networks: Vec<SavedNetwork>,
}

/// A network and this machine's keys in it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct SavedNetwork {
    pub(crate) id: [u8; 32],
    pub(crate) servers: Vec<Server>,
    pub(crate) member: Secret,
    pub(crate) tunnel: Secret,
    pub(crate) admin: Option<Secret>,
    pub(crate) stage: Stage,
    pub(crate) wish: String,
    pub(crate) switch: Switch,
    /// Revocations in effect that the log does not hold yet.
    pub(crate) revocations: Vec<Vec<u8>>,
    /// The token with which this machine founded the network, so that the same founding string is known again.
    pub(crate) founded_with: Option<[u8; 16]>,
    /// Where members were last reached directly.
    pub(crate) recent: Recent,
    /// Unix seconds that have certainly passed.
    pub(crate) time_floor: u64,
    /// Keys that a record of ours asks for, until the log holds it.
    pub(crate) next_keys: Option<NewSecrets>,
    /// What this machine calls the network, because another one has its name.
    pub(crate) alias: Option<String>,
    pub(crate) ipv4: Ipv4Use,
    /// What the own clock said at [`Self::time_floor`].
    pub(crate) floor_wall: u64,
    /// The end of the longest log that was verified: its length, and the hash of its last entry.
    pub(crate) head: (u64, [u8; 32]),
    pub(crate) after_join: AfterJoin,
}

/// The keys that follow the present ones.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct NewSecrets {
    /// The Ed25519 seed.
    pub(crate) member: Secret,
    /// The X25519 secret.
    pub(crate) tunnel: Secret,
}

/// The whole of it as versions 3 and 4 wrote it, which differ in the network.
#[derive(Deserialize)]
struct SavedBefore<N> {
    reserve: [u8; 12],
    shields: SavedShields,
    networks: Vec<N>,
}

/// [`SavedNetwork`] as version 4 wrote it.
#[derive(Deserialize)]
struct SavedNetworkV4 {
    first: SavedNetworkV3,
    floor_wall: u64,
    head: (u64, [u8; 32]),
}

/// [`SavedNetwork`] as version 3 wrote it.
#[derive(Deserialize)]
struct SavedNetworkV3 {
    id: [u8; 32],
    servers: Vec<Server>,
    member: Secret,
    tunnel: Secret,
    admin: Option<Secret>,
    stage: Stage,
    wish: String,
    switch: Switch,
    revocations: Vec<Vec<u8>>,
    founded_with: Option<[u8; 16]>,
    recent: Recent,
    time_floor: u64,
    next_keys: Option<NewSecrets>,
    alias: Option<String>,
    ipv4: Ipv4Use,
}

impl From<SavedNetworkV3> for SavedNetwork {
    fn from(first: SavedNetworkV3) -> Self {
        // The floor was raised only where the own clock agreed.
        let floor_wall = first.time_floor;
        SavedNetworkV4 { first, floor_wall, head: (0, [0; 32]) }.into()
    }
}

impl From<SavedNetworkV4> for SavedNetwork {
    fn from(SavedNetworkV4 { first: old, floor_wall, head }: SavedNetworkV4) -> Self {
        Self {
            id: old.id,
            servers: old.servers,
            member: old.member,
            tunnel: old.tunnel,
            admin: old.admin,
            stage: old.stage,
            wish: old.wish,
            switch: old.switch,
            revocations: old.revocations,
            founded_with: old.founded_with,
            recent: old.recent,
            time_floor: old.time_floor,
            next_keys: old.next_keys,
            alias: old.alias,
            ipv4: old.ipv4,
            floor_wall,
            head,
            after_join: AfterJoin::ShieldsStay,
        }
    }
}

impl<N: Into<SavedNetwork>> From<SavedBefore<N>> for Saved {
    fn from(old: SavedBefore<N>) -> Self {
        let networks = old.networks.into_iter().map(N::into).collect();
        Self { reserve: old.reserve, shields: old.shields, networks }
    }
}

/// The whole of it as versions 1 and 2 wrote it, which differ in the network.
#[derive(Deserialize)]
struct OldSaved<N> {
    reserve: [u8; 12],
    network: Option<N>,
}

/// [`SavedNetwork`] as version 2 wrote it.
#[derive(Deserialize)]
struct SavedNetworkV2 {
    first: SavedNetworkV1,
    founded_with: Option<[u8; 16]>,
    recent: Recent,
    time_floor: u64,
    next_keys: Option<NewSecrets>,
}

/// [`SavedNetwork`] as version 1 wrote it.
#[derive(Deserialize)]
struct SavedNetworkV1 {
    id: [u8; 32],
    servers: Vec<Server>,
    member: Secret,
    tunnel: Secret,
    admin: Option<Secret>,
    stage: Stage,
    wish: String,
    switch: Switch,
    shields: SavedShields,
    revocations: Vec<Vec<u8>>,
}

impl SavedNetworkV1 {
    fn present(
        self,
        founded_with: Option<[u8; 16]>,
        recent: Recent,
        time_floor: u64,
        next_keys: Option<NewSecrets>,
    ) -> (SavedShields, SavedNetwork) {
        let network = SavedNetworkV3 {
            id: self.id,
            servers: self.servers,
            member: self.member,
            tunnel: self.tunnel,
            admin: self.admin,
            stage: self.stage,
            wish: self.wish,
            switch: self.switch,
            revocations: self.revocations,
            founded_with,
            recent,
            time_floor,
            next_keys,
            alias: None,
            ipv4: Ipv4Use::On,
        };
        (self.shields, network.into())
    }
}

impl From<SavedNetworkV1> for (SavedShields, SavedNetwork) {
    fn from(old: SavedNetworkV1) -> Self {
        let founded_with = match &old.stage {
            Stage::Founding { token, .. } => Some(*token),
            Stage::Joining { .. } | Stage::Member => None,
        };
        old.present(founded_with, Recent::default(), 0, None)
    }
}

impl From<SavedNetworkV2> for (SavedShields, SavedNetwork) {
    fn from(old: SavedNetworkV2) -> Self {
        old.first.present(old.founded_with, old.recent, old.time_floor, old.next_keys)
    }
}

impl<N: Into<(SavedShields, SavedNetwork)>> From<OldSaved<N>> for Saved {
    fn from(old: OldSaved<N>) -> Self {
        let (shields, networks) = match old.network.map(N::into) {
            Some((shields, network)) => (shields, vec![network]),
            None => (SavedShields::Down, Vec::new()),
        };
        Self { reserve: old.reserve, shields, networks }
    }
}

/// How far the membership has come.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// The genesis is made; the server may or may not have it.
    Founding {
        /// The one-time token.
        token: [u8; 16],
        /// The genesis record.
        genesis: Vec<u8>,
        /// The seed of the founder's own invite.
        invite: Secret,
    },
    /// The invite is held; the member record may or may not be in the log.
    Joining {
        /// The invite's seed.
        invite: Secret,
    },
    /// The member record is in the log.
    Member,
}

/// Whether the user wants the network to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Switch {
    Up,
    Down,
}

/// Whether inbound traffic needs to answer outbound traffic.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) enum SavedShields {
    Up,
    #[default]
    Down,
}

/// What becomes of the shields with the end of a join. A join that fails never changes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) enum AfterJoin {
    #[default]
    ShieldsStay,
    /// They go down when it comes through: they are the whole machine's.
    ShieldsDown,
}

/// 32 secret bytes, wiped when dropped.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret([u8; 32]);

impl Secret {
    pub(crate) fn of_signing(key: &SigningKey) -> Self {
        Self(*key.to_bytes())
    }

    pub(crate) fn of_tunnel(key: &StaticSecret) -> Self {
        Self(*key.to_bytes())
    }

    pub(crate) fn signing(&self) -> SigningKey {
        SigningKey::from_bytes(&self.0)
    }

    pub(crate) fn tunnel(&self) -> StaticSecret {
        StaticSecret::from_bytes(self.0)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl SavedNetwork {
    pub(crate) fn id(&self) -> NetworkId {
        NetworkId::from_bytes(self.id)
    }
}

impl Saved {
    pub(crate) fn new(reserve: Tai64n, shields: SavedShields, networks: Vec<SavedNetwork>) -> Self {
        Self { reserve: reserve.to_bytes(), shields, networks }
    }

    pub(crate) fn reserve(&self) -> Tai64n {
        Tai64n::from_bytes(self.reserve)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(postcard::to_stdvec(self).expect("plain values encode into memory"));
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadState> {
        match bytes.split_first() {
            Some((&VERSION, body)) => whole(body),
            Some((&4, body)) => whole::<SavedBefore<SavedNetworkV4>>(body).map(Self::from),
            Some((&3, body)) => whole::<SavedBefore<SavedNetworkV3>>(body).map(Self::from),
            Some((&2, body)) => whole::<OldSaved<SavedNetworkV2>>(body).map(Self::from),
            Some((&1, body)) => whole::<OldSaved<SavedNetworkV1>>(body).map(Self::from),
            Some((&version, _)) if version > VERSION => Err(BadState::Newer(version)),
            Some(_) | None => Err(BadState::Broken),
        }
    }
}

fn whole<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, BadState> {
    match postcard::take_from_bytes(body) {
        Ok((saved, [])) => Ok(saved),
        Ok(_) | Err(_) => Err(BadState::Broken),
    }
}

const VERSION: u8 = 5;

#[cfg(test)]
mod tests {
    use ginnel_membership::{MemberKey, ServerKeys};

    use super::*;

    fn network() -> SavedNetwork {
        SavedNetwork {
            id: [1; 32],
            servers: vec![Server {
                addresses: vec!["203.0.113.1:4433".into()],
                keys: ServerKeys { signing: [2; 32], noise: [3; 32] },
            }],
            member: Secret([4; 32]),
            tunnel: Secret([5; 32]),
            admin: None,
            stage: Stage::Member,
            wish: "ada".into(),
            switch: Switch::Up,
            revocations: vec![vec![7, 7]],
            founded_with: Some([8; 16]),
            recent: Recent::default(),
            time_floor: 5,
            next_keys: Some(NewSecrets { member: Secret([10; 32]), tunnel: Secret([11; 32]) }),
            alias: None,
            ipv4: Ipv4Use::On,
            floor_wall: 6,
            head: (7, [12; 32]),
            after_join: AfterJoin::ShieldsStay,
        }
    }

    #[test]
    fn golden_state_without_network() {
        let saved = Saved::new(Tai64n::from_bytes([9; 12]), SavedShields::Down, Vec::new());
        assert_eq!(saved.encode(), [5, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 1, 0]);
    }

    #[test]
    fn golden_network_of_every_version() {
        let mut saved = network();
        saved.recent.note(MemberKey::from_bytes([6; 32]), "203.0.113.9:4000".parse().expect("literal"));
        saved.alias = Some("home-2".into());
        saved.ipv4 = Ipv4Use::Off;
        saved.after_join = AfterJoin::ShieldsDown;
        let bytes = Saved::new(Tai64n::from_bytes([9; 12]), SavedShields::Up, vec![saved]).encode();
        let first = [
            [1; 32].as_slice(),
            &[1, 1, 16],
            b"203.0.113.1:4433",
            &[2; 32],
            &[3; 32],
            &[4; 32],
            &[5; 32],
            &[0, 2, 3],
            b"ada",
            &[0],
        ]
        .concat();
        let revocations = [1, 2, 7, 7];
        let recent = [[1, 6].as_slice(), &[6; 31], &[1, 0, 203, 0, 113, 9, 0xA0, 0x1F]].concat();
        let founded = [[1].as_slice(), &[8; 16]].concat();
        let rest = [[5, 1].as_slice(), &[10; 32], &[11; 32]].concat();
        let of_3 =
            [[9; 12].as_slice(), &[0, 1], &first, &revocations, &founded, &recent, &rest, &[1, 6], b"home-2", &[1]];
        let of_3 = of_3.concat();
        let of_4 = [of_3.as_slice(), &[6, 7], &[12; 32]].concat();
        assert_eq!(bytes, [[5].as_slice(), &of_4, &[1]].concat());
        let of_4 = Saved::decode(&[[4].as_slice(), &of_4].concat()).expect("older versions are read");
        let [network] = of_4.networks.as_slice() else { panic!("one network") };
        assert_eq!((network.floor_wall, network.head), (6, (7, [12; 32])));
        assert_eq!(network.after_join, AfterJoin::ShieldsStay);
        let of_3 = Saved::decode(&[[3].as_slice(), &of_3].concat()).expect("older versions are read");
        let [network] = of_3.networks.as_slice() else { panic!("one network") };
        assert_eq!((network.alias.as_deref(), network.ipv4), (Some("home-2"), Ipv4Use::Off));
        assert_eq!((network.time_floor, network.floor_wall, network.head), (5, 5, (0, [0; 32])));

        let old = [[9; 12].as_slice(), &[1], &first, &[0], &revocations].concat();
        let read = |bytes: &[u8]| {
            let saved = Saved::decode(bytes).expect("older versions are read");
            let [network] = saved.networks.as_slice() else { panic!("one network") };
            assert_eq!(
                (network.wish.as_str(), &network.revocations, saved.shields),
                ("ada", &vec![vec![7, 7]], SavedShields::Up)
            );
            assert_eq!((network.alias.as_ref(), network.ipv4), (None, Ipv4Use::On));
            network.clone()
        };
        let of_1 = read(&[[1].as_slice(), &old].concat());
        assert!(of_1.founded_with.is_none() && of_1.recent.is_empty());
        let of_2 = read(&[[2].as_slice(), &old, &founded, &recent, &rest].concat());
        assert!(of_2.founded_with == Some([8; 16]) && !of_2.recent.is_empty());
        for version in [1, 2] {
            let none = Saved::decode(&[[version].as_slice(), &[9; 12], &[0]].concat()).expect("no network");
            assert!(none.networks.is_empty());
        }
    }

    #[test]
    fn state_survives_the_round_trip_and_no_truncation_decodes() {
        let whole = Saved::new(Tai64n::ZERO, SavedShields::Up, vec![network(), network()]).encode();
        let back = Saved::decode(&whole).expect("own state decodes");
        assert_eq!(back.encode(), whole);
        for length in 0..whole.len() {
            assert!(Saved::decode(&whole[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn newer_versions_are_told_apart_from_broken_ones() {
        assert_eq!(Saved::decode(&[6, 0]).err(), Some(BadState::Newer(6)));
        assert_eq!(Saved::decode(&[0, 0]).err(), Some(BadState::Broken));
    }
}
