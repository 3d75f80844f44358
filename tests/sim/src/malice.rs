//! A relay that means harm: it drops, doubles, keeps back, spoils, repeats and redirects what it carries, and lies about
//! the addresses that it sees.

use std::net::{IpAddr, SocketAddr};

use crate::dice::Dice;
use crate::net::Packet;

/// What a hostile relay has in mind.
pub(crate) struct Malice {
    dice: Dice,
    /// Whom it blames.
    bystander: IpAddr,
    /// What it has carried, to be sent again.
    kept: Vec<Packet>,
}

impl Malice {
    pub(crate) const fn new(dice: Dice, bystander: IpAddr) -> Self {
        Self { dice, bystander, kept: Vec::new() }
    }

    /// The address that it says it sees.
    pub(crate) fn lie(&mut self, seen: SocketAddr) -> SocketAddr {
        match self.dice.below(3) {
            0 => SocketAddr::new(self.bystander, self.dice.port()),
            1 => SocketAddr::new(seen.ip(), self.dice.port()),
            _ => seen,
        }
    }

    /// What it sends in place of a packet.
    pub(crate) fn spoil(&mut self, mut packet: Packet) -> Vec<Packet> {
        if self.kept.len() >= MOST_KEPT {
            self.kept.remove(0);
        }
        let kept = usize::try_from(self.dice.below(self.kept.len().max(1) as u64)).expect("an index fits");
        let older = self.kept.get(kept).cloned();
        match self.dice.below(12) {
            0 | 1 => return Vec::new(),
            2 => return vec![packet.clone(), packet],
            3 => {
                // It goes out later, after others.
                self.kept.push(packet);
                return Vec::new();
            }
            4 => {
                let length = packet.bytes.len() as u64;
                let place = usize::try_from(self.dice.below(length.max(1))).expect("an index fits");
                if let Some(byte) = packet.bytes.get_mut(place) {
                    *byte ^= 1 << self.dice.below(8);
                }
            }
            5 => {
                self.kept.push(packet.clone());
                return older.into_iter().chain([packet]).collect();
            }
            6 => {
                if let Some(older) = older {
                    packet.to = older.to;
                }
            }
            7 if self.dice.chance(200) => packet.to = SocketAddr::new(self.bystander, packet.to.port()),
            _ => {}
        }
        vec![packet]
    }
}

const MOST_KEPT: usize = 64;
