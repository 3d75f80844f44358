//! Which pairs must find a direct path, by the theory of NATs alone.

use crate::nat::{Behaviour, Dependence, Hairpin, Unsolicited};

/// What a pair of machines is entitled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entitled {
    /// A direct path.
    Direct,
    /// Traffic, be it by the relay.
    Linked,
}

/// Where one machine stands: the NATs above it, the innermost first, each with its number.
pub(crate) type Chain<'a> = &'a [(usize, Behaviour)];

/// Decides what the machines under `a` and `b` are entitled to.
///
/// - In one private network, their own addresses reach each other.
/// - Otherwise each is known to the other by the address that the server saw. That address is right for every remote only
///   if all mappings on the way are endpoint-independent. Two such sides meet whatever their filters: both send.
/// - A side whose mapping varies is seen under an unknown port. The other side must map independently of the endpoint,
///   and its filter must not ask for the port; then it learns the port from what comes in.
/// - Behind one common outer NAT, packets have to turn back at it, and openers cannot die between the two: both mappings
///   must be independent, and no NAT may mind an early packet.
pub(crate) fn entitled(a: Chain<'_>, b: Chain<'_>) -> Entitled {
    let common = a.iter().find(|(number, _)| b.iter().any(|(other, _)| other == number)).map(|(number, _)| *number);
    let Some(common) = common else { return across(sum(a), sum(b)) };
    let place = |chain: Chain<'_>| chain.iter().position(|(number, _)| *number == common);
    if place(a) == Some(0) && place(b) == Some(0) {
        return Entitled::Direct;
    }
    let turning = a.iter().find(|(number, _)| *number == common).map(|(_, behaviour)| behaviour.hairpin);
    let both = [sum(a), sum(b)];
    let fits = both.iter().all(|sum| sum.mapping == Dependence::Endpoint && !sum.minds);
    if turning == Some(Hairpin::Supported) && fits { Entitled::Direct } else { Entitled::Linked }
}

fn across(a: Sum, b: Sum) -> Entitled {
    let meets = |varying: Sum, steady: Sum| {
        varying.mapping == Dependence::Endpoint
            || (steady.mapping == Dependence::Endpoint && steady.filtering < Dependence::AddressAndPort)
    };
    if meets(a, b) && meets(b, a) { Entitled::Direct } else { Entitled::Linked }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
                let expected = if hard { Entitled::Linked } else { Entitled::Direct };
                assert_eq!(entitled(&[(0, a)], &[(1, b)]), expected, "{name_x} and {name_y}");
            }
        }
    }

    #[test]
    fn one_network_is_direct_and_a_common_carrier_needs_hairpin() {
        let home = nat(Dependence::Endpoint, Dependence::AddressAndPort);
        let symmetric = nat(Dependence::AddressAndPort, Dependence::AddressAndPort);
        let turning = Behaviour { hairpin: Hairpin::Supported, ..home };
        assert_eq!(entitled(&[(0, symmetric)], &[(0, symmetric)]), Entitled::Direct);
        assert_eq!(entitled(&[(0, home), (9, home)], &[(1, home), (9, home)]), Entitled::Linked);
        assert_eq!(entitled(&[(0, home), (9, turning)], &[(1, home), (9, turning)]), Entitled::Direct);
        assert_eq!(entitled(&[(0, symmetric), (9, turning)], &[(1, home), (9, turning)]), Entitled::Linked);
    }
}
