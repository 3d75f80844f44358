//! The command line.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;

/// Signaling server of Ginnel networks, with STUN and TURN in the same process.
///
/// On its first start it prints a founding string (ginnel-found-…) on standard output; paste it into `ginnel up` on the
/// machine that shall be the network's first admin. Everything else is logged on standard error.
#[derive(Debug, Parser)]
#[command(
    name = "ginnel-signal",
    version,
    after_help = "\
Open these UDP ports in the firewall: 4433 (signaling), 3478 (STUN and TURN), 49152-65535 (relayed addresses).

Exit codes: 0 after SIGTERM or SIGINT, 1 when the server cannot start or go on, 2 for a wrong command line.

Example:
  ginnel-signal --state /var/lib/ginnel-signal --public-address 203.0.113.7"
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Args {
    /// Folder for keys and logs; made with mode 0700 where it does not exist
    #[arg(long, value_name = "DIR", env = "GINNEL_SIGNAL_STATE")]
    pub(crate) state: PathBuf,

    /// UDP address for signaling over QUIC
    #[arg(long, value_name = "IP:PORT", default_value_t = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 4433)))]
    pub(crate) listen: SocketAddr,

    /// UDP address for STUN and TURN
    #[arg(long, value_name = "IP:PORT", default_value_t = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 3478)))]
    pub(crate) stun: SocketAddr,

    /// Addresses by which clients reach this server, at most one IPv4 and one IPv6 for relaying, four in all; by default
    /// the public addresses of this machine's interfaces
    #[arg(long, value_name = "IP[,IP...]", value_delimiter = ',', num_args = 1)]
    pub(crate) public_address: Vec<IpAddr>,

    /// UDP ports for relayed addresses
    #[arg(long, value_name = "LOW-HIGH", default_value = "49152-65535")]
    pub(crate) relay_ports: PortRange,

    /// Answer STUN, but relay nothing
    #[arg(long)]
    pub(crate) no_relay: bool,

    /// Let relayed traffic reach private addresses; only for a server that serves one local network
    #[arg(long)]
    pub(crate) allow_private_peers: bool,

    /// Print a founding string for one more network, also where networks exist
    #[arg(long)]
    pub(crate) print_founding: bool,

    /// What to log, as in `info`, `debug` or `ginnel_signal=debug`
    #[arg(long, value_name = "FILTER", default_value = "info", env = "GINNEL_SIGNAL_LOG")]
    pub(crate) log: String,
}

/// A range of UDP ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortRange {
    low: u16,
    high: u16,
}

impl PortRange {
    pub(crate) const fn ports(self) -> RangeInclusive<u16> {
        self.low..=self.high
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (low, high) = text.split_once('-').ok_or("write it as LOW-HIGH, as in 49152-65535")?;
        let port = |text: &str| text.parse().map_err(|_| format!("{text:?} is not a port from 1 to 65535"));
        let (low, high) = (port(low)?, port(high)?);
        if low == 0 {
            Err("ports start at 1".to_owned())
        } else if low > high {
            Err(format!("{low} is above {high}"))
        } else {
            Ok(Self { low, high })
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn port_ranges_are_read_and_wrong_ones_named() {
        assert_eq!("1000-2000".parse(), Ok(PortRange { low: 1000, high: 2000 }));
        for wrong in ["1000", "0-5", "9-5", "a-b", "1-70000"] {
            assert!(wrong.parse::<PortRange>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn public_addresses_are_a_list() {
        let args = Args::parse_from(["ginnel-signal", "--state", "s", "--public-address", "192.0.2.1,2001:db8::1"]);
        assert_eq!(args.public_address.len(), 2);
    }
}
