//! Which peer owns an address, by longest prefix.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::table::Slot;

/// Host routes by exact match first, then the prefixes from the longest down.
#[derive(Default)]
pub(crate) struct Routes {
    v4: Family,
    v6: Family,
    /// What each slot was given, so that taking it back costs nothing to the others; some of it may be another's by now.
    given: BTreeMap<Slot, Vec<(IpAddr, u8)>>,
    last: Option<(IpAddr, Slot)>,
}

#[derive(Default)]
struct Family {
    hosts: BTreeMap<u128, Slot>,
    prefixes: BTreeMap<(u8, u128), Slot>,
    /// The lengths among `prefixes`, longest first.
    lengths: Vec<u8>,
}

impl Routes {
    /// Gives a prefix to `slot`, taking it from whoever held it. Lengths beyond the family's are cut to a host route.
    pub(crate) fn insert(&mut self, address: IpAddr, length: u8, slot: Slot) {
        self.last = None;
        self.given.entry(slot).or_default().push((address, length));
        let (family, bits, value) = self.family(address);
        let length = length.min(bits);
        if length == bits {
            family.hosts.insert(value, slot);
        } else {
            family.prefixes.insert((length, masked(value, length, bits)), slot);
            family.measure();
        }
    }

    /// Takes every prefix from `slot`.
    pub(crate) fn remove(&mut self, slot: Slot) {
        self.last = None;
        for (address, length) in self.given.remove(&slot).unwrap_or_default() {
            let (family, bits, value) = self.family(address);
            let length = length.min(bits);
            if length == bits {
                if family.hosts.get(&value) == Some(&slot) {
                    family.hosts.remove(&value);
                }
            } else {
                let key = (length, masked(value, length, bits));
                if family.prefixes.get(&key) == Some(&slot) {
                    family.prefixes.remove(&key);
                    family.measure();
                }
            }
        }
    }

    /// The owner of `address`.
    #[inline]
    pub(crate) fn owner(&mut self, address: IpAddr) -> Option<Slot> {
        if let Some((last, slot)) = self.last
            && last == address
        {
            return Some(slot);
        }
        let (family, bits, value) = self.family(address);
        let slot = match family.hosts.get(&value) {
            Some(slot) => *slot,
            None => *family
                .lengths
                .iter()
                .find_map(|length| family.prefixes.get(&(*length, masked(value, *length, bits))))?,
        };
        self.last = Some((address, slot));
        Some(slot)
    }

    fn family(&mut self, address: IpAddr) -> (&mut Family, u8, u128) {
        match address {
            IpAddr::V4(ip) => (&mut self.v4, 32, u128::from(ip.to_bits())),
            IpAddr::V6(ip) => (&mut self.v6, 128, ip.to_bits()),
        }
    }
}

impl Family {
    fn measure(&mut self) {
        self.lengths.clear();
        self.lengths.extend(self.prefixes.keys().rev().map(|key| key.0));
        self.lengths.dedup();
    }
}

fn masked(value: u128, length: u8, bits: u8) -> u128 {
    let host_bits = u32::from(bits - length);
    value.checked_shr(host_bits).and_then(|kept| kept.checked_shl(host_bits)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::PeerId;
    use crate::table::Table;

    fn slots() -> [Slot; 3] {
        let mut table = Table::default();
        [1, 2, 3].map(|id| table.insert_with(PeerId(id), || ()))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn the_longest_prefix_owns() {
        let [a, b, c] = slots();
        let mut routes = Routes::default();
        routes.insert(ip("0.0.0.0"), 0, a);
        routes.insert(ip("10.1.2.3"), 8, b);
        routes.insert(ip("10.1.2.3"), 32, c);
        routes.insert(ip("fd00::"), 8, b);
        routes.insert(ip("fd00::1"), 200, c);
        assert_eq!(routes.owner(ip("8.8.8.8")), Some(a));
        assert_eq!(routes.owner(ip("10.9.9.9")), Some(b));
        assert_eq!(routes.owner(ip("10.1.2.3")), Some(c));
        assert_eq!(routes.owner(ip("10.1.2.3")), Some(c));
        assert_eq!(routes.owner(ip("fd00::1")), Some(c));
        assert_eq!(routes.owner(ip("fd00::2")), Some(b));
        assert_eq!(routes.owner(ip("2001:db8::1")), None);
    }

    #[test]
    fn a_prefix_moves_to_its_last_owner_and_goes_with_it() {
        let [a, b, _] = slots();
        let mut routes = Routes::default();
        routes.insert(ip("10.0.0.1"), 32, a);
        routes.insert(ip("::"), 0, a);
        assert_eq!(routes.owner(ip("10.0.0.1")), Some(a));
        routes.insert(ip("10.0.0.1"), 32, b);
        assert_eq!(routes.owner(ip("10.0.0.1")), Some(b));
        assert_eq!(routes.owner(ip("::1")), Some(a));
        routes.remove(b);
        assert_eq!(routes.owner(ip("10.0.0.1")), None);
        routes.remove(a);
        assert_eq!(routes.owner(ip("::1")), None);
    }
}
