//! Whether a NAT of the laboratory is what its name says, by a stranger's discovery and by probes of our own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::coturn::{self, Discovery, Hairpin};
use crate::host::Host;
use crate::lab::Lab;
use crate::nat::{Mapping, NatKind};
use crate::site::Site;

/// Builds a site behind a NAT of the kind `kind`, examines it from inside and outside, and says what was found.
///
/// # Errors
/// When the NAT behaves otherwise than [`NatKind::behaviour`] promises; the text says how.
pub fn verify_nat(kind: NatKind) -> Result<String> {
    let lab = Lab::builder().site(Site::new("a", kind)).site(Site::server("hub").addresses(2)).build()?;
    let (inside, hub) = (lab.host("a")?, lab.host("hub")?);
    let _server = coturn::start_stun(&hub)?;
    let found = coturn::discover(&inside, hub.ipv4())?;
    compare(kind, found)?;
    let more = match kind {
        NatKind::PortRestricted | NatKind::PortRestrictedAccepting => early_arrival(kind, &lab)?,
        NatKind::DoubleNat => two_translations(&lab)?,
        NatKind::UdpBlocked => tcp_passes(&inside, &hub)?,
        NatKind::Open | NatKind::FullCone | NatKind::AddressRestricted | NatKind::Symmetric | NatKind::Hairpin => {
            String::new()
        }
    };
    let said = match (found.mapping, found.filtering) {
        (Some(mapping), Some(filtering)) => format!("coturn sees mapping {mapping:?}, filtering {filtering:?}"),
        _ => "coturn gets no answer by UDP".to_owned(),
    };
    Ok(format!("{said}, hairpin {:?}{more}", found.hairpin))
}

fn compare(kind: NatKind, found: Discovery) -> Result<()> {
    let promised = kind.behaviour();
    let seen = found.mapping.zip(found.filtering);
    ensure!(seen == promised, "promised {promised:?}, coturn's discovery sees {found:?}");
    // A host without NAT reaches itself by its own address, which is no merit of a NAT.
    let hairpin = match promised {
        Some((Mapping::None, _)) => Hairpin::Yes,
        _ if kind == NatKind::Hairpin => Hairpin::Yes,
        Some(_) | None => Hairpin::No,
    };
    ensure!(found.hairpin == hairpin, "hairpin should be {hairpin:?}, coturn's discovery sees {found:?}");
    Ok(())
}

/// Lets the outside write first, then the inside by the same port, and looks by which port that comes out.
fn early_arrival(kind: NatKind, lab: &Lab) -> Result<String> {
    const PORT: u16 = 40_000;
    let (inside, hub) = (lab.host("a")?, lab.host("hub")?);
    let outside = hub.enter(|| UdpSocket::bind((hub.ipv4(), PORT)))??;
    let within = inside.enter(|| UdpSocket::bind((inside.ipv4(), PORT)))??;
    outside.set_read_timeout(Some(Duration::from_secs(5)))?;
    let nat = lab.nat("a")?;
    let before = nat.traffic()?.udp_in.packets;
    outside.send_to(b"early", (nat.ipv4(), PORT))?;
    wait_until(|| Ok(nat.traffic()?.udp_in.packets > before)).context("the early packet does not reach the NAT")?;
    within.send_to(b"late", (hub.ipv4(), PORT))?;
    let (_, seen) = outside.recv_from(&mut [0; 16]).context("the inside's own packet does not arrive")?;
    ensure!(seen.ip() == nat.ipv4(), "the inside's own packet comes from {seen}");
    let moved = seen.port() != PORT;
    let expected = kind == NatKind::PortRestrictedAccepting;
    ensure!(moved == expected, "after an early packet, port {PORT} leaves as {}", seen.port());
    Ok(format!("; after an early packet port {PORT} leaves as {}", seen.port()))
}

/// Shows that both NATs translate: the home's outer address is the carrier's inner side, and both pass the packet.
fn two_translations(lab: &Lab) -> Result<String> {
    let (inside, hub) = (lab.host("a")?, lab.host("hub")?);
    let (home, carrier) = (lab.home_nat("a")?, lab.nat("a")?);
    let shared = home.ipv4();
    ensure!(shared.octets()[0] == 100 && shared.octets()[1] & 0xC0 == 64, "{shared} is not in 100.64.0.0/10");
    let (_, seen) = exchange(&inside, &hub)?;
    ensure!(seen.ip() == carrier.ipv4(), "the outside sees {seen}, not the carrier's {}", carrier.ipv4());
    let [home, carrier] = [home.traffic()?.udp_out.packets, carrier.traffic()?.udp_out.packets];
    ensure!(home > 0 && carrier > 0, "{home} packets left the home router, {carrier} the carrier");
    Ok(format!("; home router at {shared}, outside sees {}", seen.ip()))
}

fn tcp_passes(inside: &Host, hub: &Host) -> Result<String> {
    let listener = hub.enter(|| TcpListener::bind((hub.ipv4(), 0)))??;
    let address = listener.local_addr()?;
    inside
        .enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))?
        .context("TCP must pass where UDP is blocked")?;
    Ok("; TCP passes".to_owned())
}

/// Sends a datagram from `inside` to `outside`, and answers both sockets' view: who was written to, who is seen.
pub(crate) fn exchange(inside: &Host, outside: &Host) -> Result<(SocketAddr, SocketAddr)> {
    let receiver = outside.enter(|| UdpSocket::bind((outside.ipv4(), 0)))??;
    let sender = inside.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
    let target = receiver.local_addr()?;
    sender.send_to(b"hello", target)?;
    let (_, seen) = receiver
        .recv_from(&mut [0; 16])
        .with_context(|| format!("no datagram from {} reaches {}", inside.name(), outside.name()))?;
    Ok((target, seen))
}

/// Looks every 10 ms, for 5 s, whether `condition` holds.
pub(crate) fn wait_until(mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..500 {
        if condition()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    anyhow::bail!("waited for 5 s in vain")
}
