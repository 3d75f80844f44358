//! coturn, a stranger: its STUN server with RFC 5780 behaviour discovery, its relay, and the clients of both.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::nat::{Filtering, Mapping};
use crate::process::Process;

/// What `turnutils_natdiscovery` printed, as values; `None` where no answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// How the NAT maps.
    pub mapping: Option<Mapping>,
    /// What the NAT lets in.
    pub filtering: Option<Filtering>,
    /// Whether the host reached itself by its outer address.
    pub hairpin: Hairpin,
}

/// Whether a NAT serves its own outer address to the inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hairpin {
    /// A packet came back.
    Yes,
    /// Nothing came back.
    No,
}

/// Starts `turnserver` for STUN alone on `host`, which has two addresses, and waits until both answer.
///
/// # Errors
/// When the host has one address only or the server does not come up.
pub fn start_stun(host: &Host) -> Result<Process> {
    let [first, second] = *host.ipv4s() else { bail!("{} needs two addresses to serve RFC 5780", host.name()) };
    let addresses = [first, second].map(|address| address.to_string());
    let pid_file = host.files()?.join("turnserver.pid").display().to_string();
    let argv = ["turnserver", "-n", "-S", "-L", &addresses[0], "-L", &addresses[1], "-p", "3478"];
    let rest = [
        "--alt-listening-port=3479",
        "--no-auth",
        "--no-tls",
        "--no-dtls",
        "--no-cli",
        "--log-file=stdout",
        "--pidfile",
    ];
    let server = host.spawn("turnserver", &[&argv, rest.as_slice(), &[&pid_file]].concat(), &[])?;
    for address in [SocketAddr::new(first.into(), PORT), SocketAddr::new(second.into(), PORT + 1)] {
        host.enter(|| await_stun(address))?.with_context(|| format!("turnserver said\n{}", server.stdout()))?;
    }
    Ok(server)
}

/// Starts `turnserver` as a relay on `host`, with credentials made from `secret`, and waits until it answers.
///
/// # Errors
/// When the server does not come up.
pub fn start_relay(host: &Host, secret: &str) -> Result<Process> {
    let address = host.ipv4();
    let pid_file = format!("--pidfile={}", host.files()?.join("turnserver.pid").display());
    let secret = format!("--static-auth-secret={secret}");
    let argv = ["turnserver", "-n", "-L", &address.to_string(), "-p", "3478", "--use-auth-secret", &secret];
    let rest = ["--realm=ginnel.test", "--no-tls", "--no-dtls", "--no-cli", "--log-file=stdout", &pid_file];
    let server = host.spawn("turnserver", &[&argv, rest.as_slice()].concat(), &[])?;
    let listening = SocketAddr::new(address.into(), PORT);
    host.enter(|| await_stun(listening))?.with_context(|| format!("turnserver said\n{}", server.stdout()))?;
    Ok(server)
}

/// Has coturn's own client on `host` send datagrams through the relay at `server` and back, and answers its summary.
///
/// # Errors
/// When one of them is lost, or the relay refuses the credentials.
pub fn try_relay(host: &Host, server: Ipv4Addr, secret: &str) -> Result<String> {
    let argv = ["turnutils_uclient", "-y", "-u", "tester", "-W", secret, "-n", "5", "-m", "1", &server.to_string()];
    let text = host.run(&argv, Duration::from_secs(20))?.success()?;
    let summary = text.lines().find_map(|line| line.split_once("Total lost packets "));
    let (_, lost) = summary.with_context(|| format!("turnutils_uclient said\n{text}"))?;
    let received = text.lines().rev().find_map(|line| line.split_once("tot_recv_msgs=")).map_or("", |(_, count)| count);
    if lost.starts_with("0 ") && received.parse::<u32>().is_ok_and(|count| count > 0) {
        return Ok(format!("{received} datagrams came back, none lost"));
    }
    bail!("turnutils_uclient said\n{text}")
}

/// Runs the discovery client on `host` against the server at `server`, its three tests at the same time.
///
/// # Errors
/// When the client cannot run or prints something unknown.
pub fn discover(host: &Host, server: Ipv4Addr) -> Result<Discovery> {
    let run = |test: &'static str| -> Result<String> {
        let local = host.ipv4().to_string();
        let argv = ["turnutils_natdiscovery", test, "-L", &local, &server.to_string()];
        let output = host.run(&argv, Duration::from_secs(30))?;
        Ok(output.stdout + &output.stderr)
    };
    let [mapping, filtering, hairpin] = std::thread::scope(|scope| {
        ["-m", "-f", "-H"]
            .map(|test| scope.spawn(move || run(test)))
            .map(|running| running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    Ok(Discovery {
        mapping: parse_mapping(&mapping?)?,
        filtering: parse_filtering(&filtering?)?,
        hairpin: if hairpin?.contains("successful hairpinning") { Hairpin::Yes } else { Hairpin::No },
    })
}

fn parse_mapping(text: &str) -> Result<Option<Mapping>> {
    verdict(
        text,
        &[
            ("No NAT", Mapping::None),
            ("Endpoint Independent Mapping", Mapping::EndpointIndependent),
            ("Address Dependent Mapping", Mapping::AddressDependent),
            ("Address and Port Dependent Mapping", Mapping::AddressAndPortDependent),
        ],
    )
}

fn parse_filtering(text: &str) -> Result<Option<Filtering>> {
    verdict(
        text,
        &[
            ("Endpoint Independent Filtering", Filtering::EndpointIndependent),
            ("Address Dependent Filtering", Filtering::AddressDependent),
            ("Address and Port Dependent Filtering", Filtering::AddressAndPortDependent),
        ],
    )
}

fn verdict<T: Copy>(text: &str, phrases: &[(&str, T)]) -> Result<Option<T>> {
    if let Some((_, found)) = phrases.iter().find(|(phrase, _)| text.contains(phrase)) {
        return Ok(Some(*found));
    }
    if text.contains("STUN receive timeout") && !text.contains("response 1") {
        return Ok(None);
    }
    bail!("the discovery client said\n{text}")
}

/// Asks for a binding until an answer comes.
fn await_stun(server: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind((server.ip(), 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        socket.send_to(&BINDING_REQUEST, server)?;
        if socket.recv(&mut [0; 512]).is_ok() {
            return Ok(());
        }
    }
    bail!("{server} answers no STUN request")
}

const PORT: u16 = 3478;

/// Type, no attributes, the magic cookie, a transaction id (RFC 8489 section 5).
const BINDING_REQUEST: [u8; 20] = *b"\x00\x01\x00\x00\x21\x12\xA4\x42laboratory..";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_read() {
        let text = "RFC 5780 response 2\nNAT with Address and Port Dependent Mapping!\n";
        assert_eq!(parse_mapping(text).expect("reads"), Some(Mapping::AddressAndPortDependent));
        let text = "RFC 5780 response 1\nNAT with Address Dependent Filtering!\n";
        assert_eq!(parse_filtering(text).expect("reads"), Some(Filtering::AddressDependent));
        let text = "No NAT: Endpoint Independent Mapping!\n";
        assert_eq!(parse_mapping(text).expect("reads"), Some(Mapping::None));
    }

    #[test]
    fn silence_is_a_verdict_and_nonsense_is_not() {
        assert_eq!(parse_mapping("STUN receive timeout..\n").expect("reads"), None);
        assert!(parse_mapping("RFC 5780 response 1\nSTUN receive timeout..\n").is_err());
        assert!(parse_filtering("bind: Cannot assign requested address").is_err());
    }
}
