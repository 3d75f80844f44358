//! Measurements between machines: ping, iperf3, and probes of our own. Each ends by itself within a stated time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::host::Host;

/// What `ping` found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ping {
    /// Requests sent.
    pub sent: u32,
    /// Answers received.
    pub received: u32,
    /// Round-trip times, if anything was answered.
    pub rtt: Option<Rtt>,
}

/// Round-trip times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rtt {
    /// The least.
    pub min: Duration,
    /// The mean.
    pub avg: Duration,
    /// The most.
    pub max: Duration,
}

/// What `iperf3` is to do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Which protocol carries the load.
    pub protocol: Protocol,
    /// How long to send, at most 30 s.
    pub duration: Duration,
    /// Which way the load goes.
    pub towards: Towards,
    /// Parallel streams.
    pub streams: u8,
}

/// What carries a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP, as fast as it goes.
    Tcp,
    /// UDP at this many bits per second in total.
    Udp(u64),
}

/// Which way a load goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// From the client to the server.
    Server,
    /// From the server to the client.
    Client,
}

/// What `iperf3` found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flow {
    /// Bits per second of payload that arrived.
    pub bits_per_second: f64,
    /// Bytes of payload that arrived.
    pub bytes: u64,
    /// Share of datagrams lost, in percent; zero for TCP.
    pub lost_percent: f64,
    /// Segments sent again; zero for UDP.
    pub retransmits: u64,
}

/// Pings `to` from `from`: `count` requests, `interval` apart.
///
/// # Errors
/// When `ping` cannot run or says something unknown. No answer is not an error.
pub fn ping(from: &Host, to: IpAddr, count: u32, interval: Duration) -> Result<Ping> {
    let interval = interval.max(Duration::from_millis(2));
    let argv = [
        "ping",
        "-n",
        "-q",
        "-W2",
        "-c",
        &count.to_string(),
        "-i",
        &format!("{:.3}", interval.as_secs_f64()),
        &to.to_string(),
    ];
    let output = from.run(&argv, interval * count + Duration::from_secs(10))?;
    parse_ping(&output.stdout).with_context(|| format!("ping said {:?} {:?}", output.stdout, output.stderr))
}

/// Loads the network between two machines; the client connects to `address`, where the server listens.
///
/// # Errors
/// When `iperf3` fails or takes 15 s more than it should.
pub fn iperf3(client: &Host, server: &Host, address: IpAddr, load: Load) -> Result<Flow> {
    let seconds = load.duration.as_secs().clamp(1, 30);
    let listener = server.spawn("iperf3-server", &["iperf3", "-s", "-1", "--forceflush"], &[])?;
    listener.wait_for_line(Duration::from_secs(5), |line| line.contains("Server listening"))?;
    let mut argv: Vec<String> = ["iperf3", "-J", "--connect-timeout", "5000", "-c"].map(str::to_owned).to_vec();
    argv.extend([
        address.to_string(),
        "-t".to_owned(),
        seconds.to_string(),
        "-P".to_owned(),
        load.streams.max(1).to_string(),
    ]);
    match load.protocol {
        Protocol::Tcp => {}
        Protocol::Udp(rate) => {
            let share = rate / u64::from(load.streams.max(1));
            argv.extend(["-u".to_owned(), "-b".to_owned(), share.to_string()]);
        }
    }
    if load.towards == Towards::Client {
        argv.push("-R".to_owned());
    }
    let output = client.run(&argv, Duration::from_secs(seconds + 15))?;
    let report = serde_json::from_str(&output.stdout).with_context(|| format!("iperf3 said {}", output.stdout))?;
    listener.stop()?;
    parse_iperf3(&report, load.protocol)
}

/// The resident memory of a process, in KiB.
///
/// # Errors
/// When it has ended.
pub fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("a program has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a program has ended")?;
    let number = line.split_whitespace().next().and_then(|number| number.parse().ok());
    number.context("read the memory of a program")
}

/// The processor time that a process has taken so far, in and for it.
///
/// # Errors
/// When it has ended.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("a program has ended")?;
    // The name, in brackets, may hold anything; the 14th and 15th field of the line are the 12th and 13th after it.
    let (_, fields) = stat.rsplit_once(')').context("read the processor time of a program")?;
    let ticks: Vec<u64> = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    ensure!(ticks.len() == 2, "read the processor time of a program");
    Ok(TICK * u32::try_from(ticks.iter().sum::<u64>()).context("read the processor time of a program")?)
}

/// Counts the routers between `from` and the public machine `to`, by datagrams whose TTL grows.
///
/// # Errors
/// When none of the 24 datagrams arrives.
pub fn count_routers(from: &Host, to: &Host) -> Result<u8> {
    let before = to.traffic()?.udp_in.packets;
    let target = SocketAddr::new(to.ipv4().into(), 33_434);
    from.enter(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        for ttl in 1..=HOP_LIMIT {
            socket.set_ttl(ttl.into())?;
            socket.send_to(b"how far", target)?;
        }
        std::io::Result::Ok(())
    })??;
    let mut arrived = 0;
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut settled = 0;
    while settled < 4 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(30));
        let seen = to.traffic()?.udp_in.packets - before;
        settled = if seen == arrived && seen > 0 { settled + 1 } else { 0 };
        arrived = seen;
    }
    ensure!(arrived > 0, "no datagram from {} reached {}", from.name(), to.name());
    let lost = u64::from(HOP_LIMIT).checked_sub(arrived).context("more datagrams arrived than were sent")?;
    Ok(u8::try_from(lost)?)
}

/// Measures the time a datagram takes from `from` to the public host `to`: the least of `count`.
///
/// Both ends read one clock, so that the way there is told apart from the way back.
///
/// # Errors
/// When no datagram arrives within two seconds.
pub fn one_way(from: &Host, to: &Host, count: u32) -> Result<Duration> {
    let address = SocketAddr::new(to.ipv4().into(), 0);
    let receiver = to.enter(|| UdpSocket::bind(address))??;
    let target = receiver.local_addr()?;
    let sender = from.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    receiver.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut least: Option<Duration> = None;
    for number in 0..count.max(1) {
        let sent = Instant::now();
        sender.send_to(&number.to_be_bytes(), target)?;
        let mut buffer = [0; 16];
        let Ok(length) = receiver.recv(&mut buffer) else { continue };
        let taken = sent.elapsed();
        if buffer[..length] == number.to_be_bytes() {
            least = Some(least.map_or(taken, |least| least.min(taken)));
        }
    }
    least.with_context(|| format!("no datagram from {} reached {}", from.name(), to.name()))
}

fn parse_ping(text: &str) -> Result<Ping> {
    let summary = text.lines().find(|line| line.contains("packets transmitted")).context("no summary")?;
    let number = |marker: &str| -> Result<u32> {
        let part = summary.split(", ").find(|part| part.contains(marker)).with_context(|| format!("no {marker}"))?;
        Ok(part.split(' ').next().unwrap_or_default().parse()?)
    };
    let rtt = text.lines().find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "));
    let rtt = rtt.map(|numbers| {
        let mut times =
            numbers.split(['/', ' ']).map(|number| Ok(Duration::try_from_secs_f64(number.parse::<f64>()? / 1e3)?));
        let mut next = || -> Result<Duration> { times.next().context("too few times")? };
        Ok::<_, anyhow::Error>(Rtt { min: next()?, avg: next()?, max: next()? })
    });
    Ok(Ping { sent: number("transmitted")?, received: number("received")?, rtt: rtt.transpose()? })
}

fn parse_iperf3(report: &serde_json::Value, protocol: Protocol) -> Result<Flow> {
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let end = &report["end"];
    let received = match protocol {
        Protocol::Tcp => &end["sum_received"],
        Protocol::Udp(_) => &end["sum"],
    };
    let lost_percent = received["lost_percent"].as_f64().unwrap_or(0.0);
    let arrived = 1.0 - lost_percent / 100.0;
    let number = |key: &str| received[key].as_f64().with_context(|| format!("iperf3 reports no {key}"));
    Ok(Flow {
        bits_per_second: number("bits_per_second")? * arrived,
        bytes: (number("bytes")? * arrived) as u64,
        lost_percent,
        retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
    })
}

const HOP_LIMIT: u8 = 24;
/// In which the kernel tells processor times to programs (`USER_HZ`, 100 on every architecture that matters here).
const TICK: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_processor_time_and_what_has_ended_has_none() {
        let own = std::process::id();
        let before = processor_time(own).expect("this program runs");
        let mut rounds = 0_u64;
        while processor_time(own).expect("this program runs") < before + 3 * TICK {
            rounds = std::hint::black_box(rounds + 1);
        }
        assert!(processor_time(u32::MAX).is_err());
    }

    #[test]
    fn a_summary_of_ping_is_read() {
        let text = "PING 192.0.2.10 (192.0.2.10) 56(84) bytes of data.\n\n--- 192.0.2.10 ping statistics ---\n\
                    10 packets transmitted, 9 received, 10% packet loss, time 95ms\n\
                    rtt min/avg/max/mdev = 40.125/40.250/41.000/0.300 ms\n";
        let us = Duration::from_micros;
        let rtt = Rtt { min: us(40_125), avg: us(40_250), max: us(41_000) };
        assert_eq!(parse_ping(text).expect("reads"), Ping { sent: 10, received: 9, rtt: Some(rtt) });
    }

    #[test]
    fn silence_and_icmp_errors_are_read_as_no_answer() {
        let text = "3 packets transmitted, 0 received, +3 errors, 100% packet loss, time 20ms\n";
        assert_eq!(parse_ping(text).expect("reads"), Ping { sent: 3, received: 0, rtt: None });
        assert!(parse_ping("ping: unknown host").is_err());
    }

    #[test]
    fn reports_of_iperf3_are_read() {
        let tcp = serde_json::json!({"end": {
            "sum_sent": {"bytes": 1100, "bits_per_second": 8800.0, "retransmits": 4},
            "sum_received": {"bytes": 1000, "bits_per_second": 8000.0}}});
        let flow = parse_iperf3(&tcp, Protocol::Tcp).expect("reads");
        assert_eq!((flow.bytes, flow.retransmits), (1000, 4));
        let udp = serde_json::json!({"end": {"sum": {"bytes": 1000, "bits_per_second": 8000.0, "lost_percent": 10.0}}});
        let flow = parse_iperf3(&udp, Protocol::Udp(8000)).expect("reads");
        assert_eq!((flow.bytes, flow.lost_percent), (900, 10.0));
        let refused = serde_json::json!({"error": "unable to connect"});
        assert!(parse_iperf3(&refused, Protocol::Tcp).expect_err("fails").to_string().contains("unable"));
    }
}
