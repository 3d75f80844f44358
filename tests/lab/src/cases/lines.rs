//! Checks of routers, delay, loss, rate, MTU, the second address family and the counters.
//!
//! Lower bounds of time are strict, since nothing may be faster than its line. Upper bounds are wide, since the machine
//! may be busy.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::counters::Direction;
use crate::delay::Shape;
use crate::lab::Lab;
use crate::measure::{self, Load, Protocol, Towards};
use crate::nat::NatKind;
use crate::site::{Family, Site, UPLINK_DELAY};
use crate::verify::wait_until;

const BETWEEN_SITES: Duration = UPLINK_DELAY.saturating_mul(2);

pub(super) fn routers() -> Result<String> {
    let lab = Lab::pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
    let [a, b, hub] = [lab.nat("a")?, lab.nat("b")?, lab.host("hub")?];
    let mut said = Vec::new();
    for (from, to) in [(&a, &b), (&b, &a), (&a, &hub)] {
        let routers = measure::count_routers(from, to)?;
        ensure!(routers >= 6, "only {routers} routers between {} and {}", from.name(), to.name());
        said.push(format!("{} → {}: {routers}", from.name(), to.name()));
    }
    Ok(format!("routers {}", said.join(", ")))
}

pub(super) fn delay() -> Result<String> {
    let sites = [Site::server("a"), Site::server("b"), Site::new("c", NatKind::PortRestricted)];
    let lab = sites.into_iter().fold(Lab::builder(), crate::lab::Builder::site).build()?;
    let [a, b, c] = [lab.host("a")?, lab.host("b")?, lab.host("c")?];
    let mut said = Vec::new();
    for (from, to) in [(&a, &b), (&b, &a), (&c, &a)] {
        let least = measure::one_way(from, to, 20)?;
        ensure!(least >= BETWEEN_SITES, "{} → {} takes only {least:?}", from.name(), to.name());
        ensure!(least < BETWEEN_SITES * 3, "{} → {} takes {least:?}", from.name(), to.name());
        said.push(format!("{} → {}: {:.2} ms", from.name(), to.name(), least.as_secs_f64() * 1e3));
    }
    let ping = measure::ping(&lab.nat("c")?, b.ipv4().into(), 20, Duration::from_millis(20))?;
    let rtt = ping.rtt.context("no ping was answered")?;
    ensure!(rtt.min >= BETWEEN_SITES * 2 && rtt.min < BETWEEN_SITES * 6, "a ping takes {rtt:?}");
    Ok(format!("one way {}; ping {:.2} ms", said.join(", "), rtt.min.as_secs_f64() * 1e3))
}

pub(super) fn lan_has_no_delay() -> Result<String> {
    let lab = Lab::same_lan()?;
    let ping = measure::ping(&lab.host("a")?, lab.host_at("a", 1)?.ipv4().into(), 10, Duration::from_millis(10))?;
    let rtt = ping.rtt.context("neighbours do not reach each other")?;
    ensure!(rtt.min < UPLINK_DELAY, "a ping on one network takes {rtt:?}");
    Ok(format!("ping {:?}", rtt.min))
}

pub(super) fn loss() -> Result<String> {
    const SENT: u64 = 2_000;
    let lab = Lab::builder().site(Site::server("a")).site(Site::server("hub")).seed(11).build()?;
    let lossy = Shape::delay(UPLINK_DELAY).with_loss(20.0);
    lab.reshape("a", lossy, lossy)?;
    let (a, hub) = (lab.host("a")?, lab.host("hub")?);
    let before = hub.traffic()?.udp_in.packets;
    blast(&a, SocketAddr::new(hub.ipv4().into(), 9), SENT)?;
    wait_until(|| Ok(offered(lab.tally("a")?[0]) >= SENT))?;
    let up = lab.tally("a")?[0];
    ensure!(up.overflowed == 0, "{up:?}");
    ensure!((300..=500).contains(&up.lost), "20 % of {SENT} should be lost: {up:?}");
    let arrived = || Ok::<u64, anyhow::Error>(hub.traffic()?.udp_in.packets - before);
    wait_until(|| Ok(arrived()? >= SENT - up.lost)).with_context(|| format!("{up:?}"))?;
    lab.reshape("a", Shape::cut(), Shape::cut())?;
    let cut = measure::ping(&a, hub.ipv4().into(), 5, Duration::from_millis(20))?;
    ensure!(cut.received == 0, "a cut line answers: {cut:?}");
    let whole = Shape::delay(UPLINK_DELAY);
    lab.reshape("a", whole, whole)?;
    let healed = measure::ping(&a, hub.ipv4().into(), 5, Duration::from_millis(20))?;
    ensure!(healed.received == 5, "a healed line loses pings: {healed:?}");
    Ok(format!("{} of {SENT} lost at 20 %; cut and healed", up.lost))
}

pub(super) fn rate() -> Result<String> {
    const RATE: u64 = 20_000_000;
    let limited = Shape::delay(UPLINK_DELAY).with_rate(RATE);
    let site = Site::server("a").uplink(limited, Shape::delay(UPLINK_DELAY));
    let lab = Lab::builder().site(site).site(Site::server("hub")).build()?;
    let (a, hub) = (lab.host("a")?, lab.host("hub")?);
    let load =
        |towards| Load { protocol: Protocol::Udp(2 * RATE), duration: Duration::from_secs(2), towards, streams: 1 };
    let up = measure::iperf3(&a, &hub, hub.ipv4().into(), load(Towards::Server))?;
    let tally = lab.tally("a")?[0];
    // The queue empties for 50 ms after the sender's two seconds; headers count as well.
    ensure!(up.bits_per_second < RATE as f64 * 1.04, "{up:?} through a line of {RATE} bit/s");
    ensure!(up.bits_per_second > RATE as f64 * 0.5, "{up:?} through a line of {RATE} bit/s");
    ensure!(tally.overflowed > 0, "twice the rate must overflow the queue: {tally:?}");
    let down = measure::iperf3(&a, &hub, hub.ipv4().into(), load(Towards::Client))?;
    ensure!(down.bits_per_second > RATE as f64 * 1.2, "the other way has no limit, yet {down:?}");
    Ok(format!("{:.1} Mbit/s up, {:.1} down", up.bits_per_second / 1e6, down.bits_per_second / 1e6))
}

pub(super) fn throughput() -> Result<String> {
    let lab = Lab::builder().site(Site::server("a")).site(Site::server("hub")).build()?;
    let (a, hub) = (lab.host("a")?, lab.host("hub")?);
    let load = Load { protocol: Protocol::Tcp, duration: Duration::from_secs(3), towards: Towards::Server, streams: 2 };
    let flow = measure::iperf3(&a, &hub, hub.ipv4().into(), load)?;
    ensure!(flow.bits_per_second > 50e6, "{flow:?}");
    Ok(format!(
        "TCP {:.0} Mbit/s through two delay boxes, {} retransmits",
        flow.bits_per_second / 1e6,
        flow.retransmits
    ))
}

pub(super) fn mtu() -> Result<String> {
    let lab = Lab::builder()
        .site(Site::server("a").mtu(1400))
        .site(Site::server("hub"))
        .site(Site::server("wide"))
        .build()?;
    let hub = lab.host("hub")?.ipv4().to_string();
    // ICMP's 8 and IP's 20 bytes come on top.
    let passes = |site: &str, payload: &str| -> Result<bool> {
        let argv = ["ping", "-n", "-M", "do", "-c1", "-W2", "-s", payload, &hub];
        Ok(lab.host(site)?.run(&argv, Duration::from_secs(10))?.status.success())
    };
    ensure!(passes("wide", "1472")?, "1500 bytes do not pass");
    ensure!(passes("a", "1372")?, "1400 bytes do not pass an MTU of 1400");
    ensure!(!passes("a", "1373")?, "1401 bytes pass an MTU of 1400");
    Ok("1500 bytes pass by default, exactly 1400 at an MTU of 1400".to_owned())
}

pub(super) fn ipv6() -> Result<String> {
    let site = Site::new("a", NatKind::PortRestricted).family(Family::Dual);
    let carrier = Site::new("c", NatKind::DoubleNat).family(Family::Dual);
    let hub = Site::server("hub").family(Family::Dual);
    let lab = Lab::builder().site(site).site(carrier).site(hub).build()?;
    let hub = lab.host("hub")?;
    let outside = hub.ipv6().context("hub has IPv6")?;
    for name in ["a", "c"] {
        let inside = lab.host(name)?;
        let address = inside.ipv6().with_context(|| format!("{name} has IPv6"))?;
        let within = inside.enter(|| UdpSocket::bind((address, 5000)))??;
        let without = hub.enter(|| UdpSocket::bind((outside, 5000)))??;
        within.set_read_timeout(Some(Duration::from_millis(300)))?;
        without.set_read_timeout(Some(Duration::from_secs(5)))?;
        without.send_to(b"unasked", (address, 5000))?;
        ensure!(within.recv(&mut [0; 16]).is_err(), "{name}: the filter lets in what was not asked for");
        within.send_to(b"question", (outside, 5000))?;
        let (_, seen) = without.recv_from(&mut [0; 16]).with_context(|| format!("{name}: nothing gets out"))?;
        ensure!(seen == SocketAddr::new(address.into(), 5000), "{name}: IPv6 is translated to {seen}");
        without.send_to(b"answer", seen)?;
        within.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut buffer = [0; 16];
        let length = within.recv(&mut buffer).with_context(|| format!("{name}: the answer is kept out"))?;
        ensure!(&buffer[..length] == b"answer", "{name}: {:?} came in", &buffer[..length]);
    }
    Ok("untranslated; only answers come in, also behind a carrier".to_owned())
}

pub(super) fn counters() -> Result<String> {
    const SENT: u64 = 500;
    let lab = Lab::pair(NatKind::PortRestricted, NatKind::Open)?;
    let (a, hub) = (lab.host("a")?, lab.host("hub")?);
    let (nat, bystander) = (lab.face("a")?, lab.face("b")?);
    let chosen = hub.count_bytes(Direction::In, "udp dport 9")?;
    let other = hub.count_bytes(Direction::In, "udp dport 10")?;
    let before = [nat.traffic()?, hub.traffic()?, bystander.traffic()?];
    blast(&a, SocketAddr::new(hub.ipv4().into(), 9), SENT)?;
    let bytes = SENT * (PAYLOAD.len() as u64 + 28);
    wait_until(|| Ok(hub.traffic()?.since(before[1]).udp_in.bytes >= bytes))?;
    let [nat, hub, bystander] =
        [nat.traffic()?.since(before[0]), hub.traffic()?.since(before[1]), bystander.traffic()?.since(before[2])];
    ensure!(nat.udp_out.bytes == bytes && nat.udp_in.bytes == 0, "{bytes} bytes crossed the NAT, counted {nat:?}");
    ensure!(hub.udp_in.bytes == bytes, "{bytes} bytes reached the hub, counted {hub:?}");
    ensure!(bystander.udp_bytes() == 0, "a bystander counts {bystander:?}");
    ensure!(chosen.read()?.bytes == bytes && other.read()?.bytes == 0, "a filter counts {:?}", chosen.read()?);
    Ok(format!("{SENT} datagrams, {bytes} bytes at NAT, hub and filter alike"))
}

/// Sends `count` datagrams at a pace that every queue on the way can take.
fn blast(from: &crate::host::Host, to: SocketAddr, count: u64) -> Result<()> {
    let socket = from.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    for number in 0..count {
        socket.send_to(&PAYLOAD, to)?;
        if number % 20 == 19 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

fn offered(tally: crate::delay::line::Tally) -> u64 {
    tally.delivered + tally.lost + tally.overflowed
}

const PAYLOAD: [u8; 1_000] = [0x67; 1_000];
