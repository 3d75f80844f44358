//! What crosses an interface, counted by the kernel: IP packets and their bytes.

use anyhow::{Context, Result};

use crate::host::Host;

/// Traffic through one interface since the laboratory was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// UDP that came in.
    pub udp_in: Count,
    /// UDP that went out.
    pub udp_out: Count,
    /// TCP that came in.
    pub tcp_in: Count,
    /// TCP that went out.
    pub tcp_out: Count,
}

/// A number of packets and of bytes, IP headers included. A train of segments that the kernel handles as one counts as
/// one packet with one header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// IP packets.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
}

/// Which way packets cross the watched interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the network into the namespace.
    In,
    /// From the namespace to the network.
    Out,
}

/// A counter of packets that match a filter of the test's own.
#[derive(Clone, Debug)]
pub struct Meter {
    host: Host,
    name: String,
}

impl Traffic {
    /// UDP bytes both ways.
    pub fn udp_bytes(self) -> u64 {
        self.udp_in.bytes + self.udp_out.bytes
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            udp_in: self.udp_in.since(earlier.udp_in),
            udp_out: self.udp_out.since(earlier.udp_out),
            tcp_in: self.tcp_in.since(earlier.tcp_in),
            tcp_out: self.tcp_out.since(earlier.tcp_out),
        }
    }
}

impl Count {
    fn since(self, earlier: Self) -> Self {
        Self { packets: self.packets.saturating_sub(earlier.packets), bytes: self.bytes.saturating_sub(earlier.bytes) }
    }
}

impl Meter {
    /// What matched so far.
    ///
    /// # Errors
    /// When the packet filter cannot be read.
    pub fn read(&self) -> Result<Count> {
        find(&read_all(&self.host)?, &self.name)
    }
}

/// Starts counting the packets that cross the host's watched interface and match `filter`, e.g. `udp dport 3478`.
pub(crate) fn add_meter(host: &Host, direction: Direction, filter: &str, number: u64) -> Result<Meter> {
    let name = format!("meter{number}");
    let (chain, matched) = match direction {
        Direction::In => ("arriving", "iifname"),
        Direction::Out => ("leaving", "oifname"),
    };
    let interface = host.interface();
    host.namespace().nft(&format!(
        "add counter inet {TABLE} {name}\n\
         add rule inet {TABLE} {chain} {matched} \"{interface}\" {filter} counter name {name}\n"
    ))?;
    Ok(Meter { host: host.clone(), name })
}

pub(crate) fn traffic(host: &Host) -> Result<Traffic> {
    let listing = read_all(host)?;
    Ok(Traffic {
        udp_in: find(&listing, "udp_in")?,
        udp_out: find(&listing, "udp_out")?,
        tcp_in: find(&listing, "tcp_in")?,
        tcp_out: find(&listing, "tcp_out")?,
    })
}

/// Counters on `interface`, before any translation of what arrives and after any of what leaves.
pub(crate) fn ruleset(interface: &str) -> String {
    let counters: String =
        ["udp_in", "udp_out", "tcp_in", "tcp_out"].map(|name| format!("counter {name} {{ }}\n")).concat();
    format!(
        "table inet {TABLE} {{\n\
         {counters}\
         chain arriving {{ type filter hook prerouting priority -350;\n\
         iifname \"{interface}\" meta l4proto udp counter name udp_in\n\
         iifname \"{interface}\" meta l4proto tcp counter name tcp_in\n\
         }}\n\
         chain leaving {{ type filter hook postrouting priority 350;\n\
         oifname \"{interface}\" meta l4proto udp counter name udp_out\n\
         oifname \"{interface}\" meta l4proto tcp counter name tcp_out\n\
         }}\n}}\n"
    )
}

fn read_all(host: &Host) -> Result<serde_json::Value> {
    let mut command = host.namespace().command("nft")?;
    command.args(["-j", "list", "counters", "table", "inet", TABLE]);
    let output = command.output().context("run nft")?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("nft on {}: {}", host.name(), String::from_utf8_lossy(&output.stderr)))
}

fn find(listing: &serde_json::Value, name: &str) -> Result<Count> {
    let entries = listing["nftables"].as_array().context("nft lists nothing")?;
    let counter = entries.iter().map(|entry| &entry["counter"]).find(|counter| counter["name"] == name);
    let counter = counter.with_context(|| format!("no counter {name}"))?;
    let number = |key: &str| counter[key].as_u64().with_context(|| format!("counter {name} has no {key}"));
    Ok(Count { packets: number("packets")?, bytes: number("bytes")? })
}

const TABLE: &str = "ginnel_count";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name() {
        let listing = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"counter": {"family": "inet", "name": "udp_in", "packets": 3, "bytes": 420}},
        ]});
        assert_eq!(find(&listing, "udp_in").expect("there"), Count { packets: 3, bytes: 420 });
        assert!(find(&listing, "udp_out").expect_err("absent").to_string().contains("udp_out"));
    }
}
