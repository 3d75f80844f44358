//! Which pairs must find a direct path, by the theory of NATs alone.

use std::time::Duration;

use crate::nat::{Behaviour, Dependence, Hairpin, Unsolicited};

/// What the theory of NATs says of a direct path between two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Theory {
    /// They meet.
    Meet,
    /// They may, by luck.
    May,
    /// They do not.
    Never,
}

/// What must be true of a pair that talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// Packets go directly.
    Direct,
    /// Packets arrive, by whatever way.
    Linked,
    /// Nothing arrives.
    Cannot,
    /// Whatever happens is right.
    May,
}

/// Where one machine stands: the NATs above it, the innermost first, each with its number.
pub(crate) type Chain<'a> = &'a [(usize, Behaviour)];

/// Decides whether the machines under `a` and `b` meet.
///
/// - In one private network, their own addresses reach each other.
/// - Otherwise each is known to the other by the address that the server saw. That address is right for every remote only
///   if all mappings on the way are endpoint-independent. Two such sides meet whatever their filters: both send.
/// - A side whose mapping varies is seen under an unknown port. The other side must map independently of the endpoint,
///   and its filter must not ask for the port; then it learns the port from what comes in.
/// - Behind one common outer NAT, packets have to turn back at it, and openers cannot die between the two: both mappings
///   must be independent, and no NAT may mind an early packet; else it is luck.
/// - A mapping that is forgotten sooner than it is refreshed (25 s for a path that stands by) is often another by the time it is used.
pub(crate) fn theory(a: Chain<'_>, b: Chain<'_>) -> Theory {
    let common = a.iter().find(|(number, _)| b.iter().any(|(other, _)| other == number)).map(|(number, _)| *number);
    let certain = |theory: Theory| if is_forgetful(a, b) && theory == Theory::Meet { Theory::May } else { theory };
    let Some(common) = common else { return certain(across(sum(a), sum(b))) };
    let place = |chain: Chain<'_>| chain.iter().position(|(number, _)| *number == common);
    if place(a) == Some(0) && place(b) == Some(0) {
        return Theory::Meet;
    }
    let turning = a.iter().find(|(number, _)| *number == common).map(|(_, behaviour)| behaviour.hairpin);
    if turning != Some(Hairpin::Supported) {
        return Theory::Never;
    }
    let fits = [sum(a), sum(b)].iter().all(|sum| sum.mapping == Dependence::Endpoint && !sum.minds);
    if fits { certain(Theory::Meet) } else { Theory::May }
}

/// Whether two machines meet at first sight: no mapping depends on the remote, and no NAT minds an early packet.
pub(crate) fn is_easy(a: Chain<'_>, b: Chain<'_>) -> bool {
    let common = a.first().is_some_and(|first| b.first().is_some_and(|other| other.0 == first.0));
    common || [sum(a), sum(b)].iter().all(|sum| sum.mapping == Dependence::Endpoint && !sum.minds)
}

/// Whether two machines meet with nobody to arrange it, at second sight at the latest: whatever port a NAT gives or moves a
/// flow to, the other side's NATs let its packets in once anything has gone to that address, and the port is learnt from them.
pub(crate) fn is_open(a: Chain<'_>, b: Chain<'_>) -> bool {
    let common = a.iter().any(|(number, _)| b.iter().any(|(other, _)| other == number));
    let open = |moving: Sum, steady: Sum| {
        (moving.mapping == Dependence::Endpoint && !moving.minds)
            || (steady.mapping == Dependence::Endpoint && steady.filtering < Dependence::AddressAndPort)
    };
    let (a, b) = (sum(a), sum(b));
    !common && open(a, b) && open(b, a)
}

/// Whether two machines are behind one NAT that turns nothing back, in different networks: whatever ports they know of each
/// other, nothing passes.
pub(crate) fn is_walled(a: Chain<'_>, b: Chain<'_>) -> bool {
    let common = a.iter().find(|(number, _)| b.iter().any(|(other, _)| other == number));
    common.is_some_and(|(number, behaviour)| {
        let nearest = [a, b].iter().all(|chain| chain.first().is_some_and(|(first, _)| first == number));
        !nearest && behaviour.hairpin != Hairpin::Supported
    })
}

/// Whether a NAT of either chain takes an early packet amiss.
pub(crate) fn minds(a: Chain<'_>, b: Chain<'_>) -> bool {
    sum(a).minds || sum(b).minds
}

/// Whether a NAT of either chain forgets flows before anybody thinks of refreshing them.
pub(crate) fn is_forgetful(a: Chain<'_>, b: Chain<'_>) -> bool {
    a.iter().chain(b).any(|(_, nat)| nat.lifetime < ASKED_AGAIN)
}

fn across(a: Sum, b: Sum) -> Theory {
    let meets = |varying: Sum, steady: Sum| {
        varying.mapping == Dependence::Endpoint
            || (steady.mapping == Dependence::Endpoint && steady.filtering < Dependence::AddressAndPort)
    };
    if meets(a, b) && meets(b, a) { Theory::Meet } else { Theory::Never }
}

/// What several NATs in a row amount to.
#[derive(Clone, Copy, Debug)]
struct Sum {
    mapping: Dependence,
    filtering: Dependence,
    minds: bool,
}

fn sum(chain: Chain<'_>) -> Sum {
    let none = Sum { mapping: Dependence::Endpoint, filtering: Dependence::Endpoint, minds: false };
    chain.iter().fold(none, |sum, (_, nat)| Sum {
        mapping: sum.mapping.max(nat.mapping),
        filtering: sum.filtering.max(nat.filtering),
        minds: sum.minds || nat.unsolicited == Unsolicited::Occupy,
    })
}

/// A path that stands by is asked this often, and a little longer passes until the answer is used.
const ASKED_AGAIN: Duration = Duration::from_secs(28);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::Ports;

    fn nat(mapping: Dependence, filtering: Dependence) -> Behaviour {
        Behaviour {
            mapping,
            filtering,
            ports: Ports::Preserve,
            lifetime: Duration::from_secs(60),
            unsolicited: Unsolicited::Nothing,
            hairpin: Hairpin::Dropped,
        }
    }

    #[test]
    fn the_known_table_of_pairs_holds() {
        use Dependence::{Address, AddressAndPort, Endpoint};
        let kinds = [
            ("full cone", nat(Endpoint, Endpoint)),
            ("address-restricted", nat(Endpoint, Address)),
            ("port-restricted", nat(Endpoint, AddressAndPort)),
            ("symmetric", nat(AddressAndPort, AddressAndPort)),
        ];
        for (x, (name_x, a)) in kinds.into_iter().enumerate() {
            for (y, (name_y, b)) in kinds.into_iter().enumerate() {
                let hard = (x == 3 && y >= 2) || (y == 3 && x >= 2);
                let expected = if hard { Theory::Never } else { Theory::Meet };
                assert_eq!(theory(&[(0, a)], &[(1, b)]), expected, "{name_x} and {name_y}");
            }
        }
    }

    #[test]
    fn whose_packets_are_let_in_from_any_port_needs_no_arrangement() {
        use Dependence::{Address, AddressAndPort, Endpoint};
        let cone = nat(Endpoint, AddressAndPort);
        let minding = Behaviour { unsolicited: Unsolicited::Occupy, ..cone };
        let symmetric = nat(AddressAndPort, AddressAndPort);
        for (other, expected) in [
            (nat(Endpoint, Endpoint), true),
            (nat(Endpoint, Address), true),
            (cone, false),
            (nat(Address, Address), false),
        ] {
            assert_eq!(is_open(&[(0, minding)], &[(1, other)]), expected, "{other:?}");
            assert_eq!(is_open(&[(0, other)], &[(1, symmetric)]), expected, "{other:?}");
        }
        assert!(is_open(&[(0, cone)], &[(1, cone)]));
        assert!(!is_open(&[(0, cone), (9, cone)], &[(1, cone), (9, cone)]));
    }

    #[test]
    fn one_network_is_direct_and_a_common_carrier_needs_hairpin() {
        let home = nat(Dependence::Endpoint, Dependence::AddressAndPort);
        let symmetric = nat(Dependence::AddressAndPort, Dependence::AddressAndPort);
        let turning = Behaviour { hairpin: Hairpin::Supported, ..home };
        assert_eq!(theory(&[(0, symmetric)], &[(0, symmetric)]), Theory::Meet);
        assert_eq!(theory(&[(0, home), (9, home)], &[(1, home), (9, home)]), Theory::Never);
        assert_eq!(theory(&[(0, home), (9, turning)], &[(1, home), (9, turning)]), Theory::Meet);
        assert_eq!(theory(&[(0, symmetric), (9, turning)], &[(1, home), (9, turning)]), Theory::May);
        assert!(is_walled(&[(0, home), (9, home)], &[(1, home), (9, home)]));
        assert!(!is_walled(&[(0, home), (9, turning)], &[(1, home), (9, turning)]));
        assert!(!is_walled(&[(0, home)], &[(0, home)]) && !is_walled(&[(0, home)], &[(1, home)]));
    }
}
