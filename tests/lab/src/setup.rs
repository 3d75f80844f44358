//! What the laboratory needs from the machine, and how to get it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::sys;

/// A program that the laboratory runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// The program's file name.
    pub program: &'static str,
    /// The Debian and Ubuntu package that has it.
    pub package: &'static str,
}

/// Something that the machine lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// This process is not root.
    Root,
    /// There is no `/dev/net/tun`.
    TunDevice,
    /// A program is not installed.
    Tool(Tool),
}

/// Every program, with its package.
pub const TOOLS: [Tool; 9] = [
    Tool { program: "nft", package: "nftables" },
    Tool { program: "ip", package: "iproute2" },
    Tool { program: "iperf3", package: "iperf3" },
    Tool { program: "turnserver", package: "coturn" },
    Tool { program: "turnutils_natdiscovery", package: "coturn" },
    Tool { program: "wireguard-go", package: "wireguard-go" },
    Tool { program: "wg", package: "wireguard-tools" },
    Tool { program: "ping", package: "iputils-ping" },
    Tool { program: "tcpdump", package: "tcpdump" },
];

/// Lists what is missing on this machine; an empty list means ready.
pub fn check() -> Vec<Missing> {
    let mut missing = Vec::new();
    if !sys::is_root() {
        missing.push(Missing::Root);
    }
    if !Path::new("/dev/net/tun").exists() {
        missing.push(Missing::TunDevice);
    }
    missing.extend(TOOLS.into_iter().filter(|tool| find(tool.program).is_none()).map(Missing::Tool));
    missing
}

/// Installs what is missing with apt-get, where that exists, and answers the packages installed.
///
/// # Errors
/// When something is missing that this machine's package manager or this user cannot provide; the text names it and
/// says how to get it.
pub fn install() -> Result<Vec<&'static str>> {
    let missing = check();
    let mut packages: Vec<&'static str> = missing
        .iter()
        .filter_map(|missing| match missing {
            Missing::Tool(tool) => Some(tool.package),
            Missing::Root | Missing::TunDevice => None,
        })
        .collect();
    packages.dedup();
    if !packages.is_empty() && !missing.contains(&Missing::Root) && find("apt-get").is_some() {
        apt_get(&["update", "-q"])?;
        apt_get(&[&["install", "-q", "-y", "--no-install-recommends"], packages.as_slice()].concat())?;
    }
    let left = check();
    if left.is_empty() {
        return Ok(packages);
    }
    bail!("the laboratory cannot run here:{}", describe(&left))
}

/// Says what is missing, one per line, each with its remedy.
pub fn describe(missing: &[Missing]) -> String {
    missing.iter().map(|missing| format!("\n  - {missing}")).collect()
}

/// Fails unless this process may make namespaces.
pub(crate) fn require_root() -> Result<()> {
    if sys::is_root() { Ok(()) } else { bail!("{}", Missing::Root) }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Root => formatter.write_str("this user is not root: network namespaces need `sudo`"),
            Self::TunDevice => formatter.write_str(
                "there is no /dev/net/tun: `modprobe tun`, or give the container that device (`--device /dev/net/tun`)",
            ),
            Self::Tool(Tool { program, package }) => {
                write!(formatter, "{program} is not installed: Debian and Ubuntu have it in the package {package}")
            }
        }
    }
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let output = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .context("run apt-get")?;
    if output.status.success() {
        return Ok(());
    }
    bail!("apt-get {} failed:\n{}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())
}

fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Administrators' directories are often missing from a user's path, and hold `nft` and `ip`.
    let known = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(Into::into));
    known.map(|directory| directory.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let text = describe(&[Missing::Root, Missing::TunDevice, Missing::Tool(TOOLS[3])]);
        for word in ["sudo", "/dev/net/tun", "turnserver", "coturn"] {
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn programs_are_found_on_the_path_and_others_are_not() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-anywhere").is_none());
    }
}
