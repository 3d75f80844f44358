//! The addresses of a laboratory, all computed from a site's place in the list.
//!
//! | what | range |
//! |---|---|
//! | public sides | 32 addresses of 203.0.113.0/24, 198.51.100.0/24 or 192.0.2.0/24; `.1` of them is router r1, `.10` the first machine |
//! | the same, IPv6 | 2001:db8:SITE:ffff::/64 |
//! | behind a carrier NAT | 100.64.SITE.0/24 and 2001:db8:SITE:fffe::/64 |
//! | LANs | 192.168.N.0/24 and 2001:db8:SITE:LAN::/64 |
//! | between routers | 10.255.SITE.0/24 and fd0f:SITE::/32 |

use std::net::{Ipv4Addr, Ipv6Addr};

/// The addresses of one site.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    pub(crate) index: u8,
    /// The base of its 32 public IPv4 addresses.
    pub(crate) public: Ipv4Addr,
}

impl Numbers {
    /// The first three sites get a documentation range each; further ones share those, in blocks of 32 addresses.
    pub(crate) fn of(index: u8) -> Self {
        let [first, second, third] = RANGES[usize::from(index) % RANGES.len()];
        let block = index / 3 * 32;
        Self { index, public: Ipv4Addr::new(first, second, third, block) }
    }

    pub(crate) fn public4(self, last: u8) -> Ipv4Addr {
        let [first, second, third, block] = self.public.octets();
        Ipv4Addr::new(first, second, third, block + last)
    }

    pub(crate) fn carrier4(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(100, 64, self.index, last)
    }

    pub(crate) fn transit4(self, step: u8, side: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 255, self.index, step * 2 + side)
    }

    pub(crate) fn transit6(self, step: u8, side: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xFD0F, u16::from(self.index), u16::from(step), 0, 0, 0, 0, u16::from(side))
    }

    /// The site's /48.
    pub(crate) fn site6(self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xDB8, u16::from(self.index) + 1, 0, 0, 0, 0, 0)
    }

    pub(crate) fn wan6(self, last: u16) -> Ipv6Addr {
        self.inside6(0xFFFF, last)
    }

    pub(crate) fn carrier6(self, last: u16) -> Ipv6Addr {
        self.inside6(0xFFFE, last)
    }

    pub(crate) fn lan6(self, lan: u8, last: u16) -> Ipv6Addr {
        self.inside6(u16::from(lan), last)
    }

    /// The /52 that holds every LAN of the site.
    pub(crate) fn lans6(self) -> Ipv6Addr {
        self.site6()
    }

    pub(crate) fn inside6(self, subnet: u16, last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xDB8, u16::from(self.index) + 1, subnet, 0, 0, 0, last)
    }
}

/// Three documentation ranges of eight blocks.
pub(crate) const SITE_LIMIT: usize = 24;

/// The last byte, within a block, of a site's first public machine; also that of a home router behind a carrier.
pub(crate) const FIRST_PUBLIC: u8 = 10;

/// The third byte of the first site's first LAN.
pub(crate) const FIRST_LAN: u8 = 10;

const RANGES: [[u8; 3]; 3] = [[203, 0, 113], [198, 51, 100], [192, 0, 2]];
