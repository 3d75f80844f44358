use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Links machines behind NATs into one private network.
#[derive(Debug, Parser)]
#[command(
    name = "ginnel",
    version,
    infer_subcommands = false,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(before_help = EXAMPLES, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Options of every verb.
#[derive(Args, Debug)]
pub(crate) struct Global {
    /// Print JSON: one object on standard output, or one on standard error when the verb fails
    #[arg(short = 'j', long, global = true, value_name = "VERSION", num_args = 0..=1, require_equals = true,
          default_missing_value = "1", value_parser = clap::value_parser!(u8).range(1..=1))]
    pub(crate) json: Option<u8>,
    /// Control socket of the daemon
    #[arg(long, global = true, value_name = "PATH", env = "GINNEL_SOCKET")]
    pub(crate) socket: Option<PathBuf>,
    /// Which network is meant, by its name or the start of its id, where this machine is in several
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) network: Option<String>,
    /// Longest wait in seconds, 0 for no limit [default: what suits the verb]
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,
    /// When to colour the output
    #[arg(long, global = true, value_name = "WHEN")]
    pub(crate) color: Option<Color>,
}

/// When to colour the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Found a network, join one, or start those this machine is in
    ///
    /// A machine can be in several networks. Without a string, `up` starts all of them, or the one that --network names.
    /// Settings given here change; settings left out stay as they are.
    Up(Up),
    /// Stop every network, or the one that --network names, without leaving it
    Down,
    /// Show the daemon, its networks, their peers and what is wrong
    Status,
    /// Show the peers and the path to each
    Peers,
    /// Probe a peer and name the path of each reply
    Ping(Ping),
    /// Make an invite, or list or revoke invites
    ///
    /// Without a subcommand makes an invite and prints it alone on standard output.
    #[command(args_conflicts_with_subcommands = true)]
    Invite(Invite),
    /// Put a peer out of the network for good
    Revoke(Revoke),
    /// Print the addresses of this machine or of a peer
    Ip(Ip),
    /// Leave a network and forget its keys
    Leave(Leave),
    /// Show the membership log
    Log,
    /// List, add, remove or promote the network's servers
    #[command(subcommand)]
    Server(ServerAction),
    /// List, add or remove the network's admins, or set how many must agree
    #[command(subcommand)]
    Admin(AdminAction),
    /// Sign what another admin has proposed
    ///
    /// Prints the string for the next admin where more must sign.
    Cosign {
        /// The string that the other admin's change printed; - reads it from standard input, file:PATH from a file
        #[arg(value_name = "STRING|-|file:PATH")]
        proposal: String,
    },
    /// Show or change the network's rules
    Policy(PolicyChange),
    /// Let newcomers start from the network as it is, without its history
    Checkpoint,
    /// Replace this machine's keys in the network; name and addresses stay
    RotateKeys,
    /// Tell what happens, as it happens, until interrupted
    ///
    /// With --json one object per line. --timeout ends it without an error.
    Events(Events),
}

#[derive(Args, Debug)]
pub(crate) struct Up {
    /// Founding string or invite; - reads it from standard input, file:PATH from a file
    #[arg(value_name = "FOUNDING|INVITE|-|file:PATH")]
    pub(crate) from: Option<String>,
    /// Name for this machine [default: its host name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Name for the network, when founding one
    #[arg(long, value_name = "NAME", requires = "from")]
    pub(crate) network_name: Option<String>,
    /// IPv4 range of the network, when founding one, as 100.72.0.0/16 [default: a free one]
    #[arg(long, value_name = "RANGE", requires = "from")]
    pub(crate) range: Option<String>,
    /// Reach the network's members by IPv6 alone, as where its IPv4 range is taken; --no-ipv4=false undoes it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) no_ipv4: Option<bool>,
    /// Refuse connections that peers of any network open to this machine; --shields-up=false accepts them
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) shields_up: Option<bool>,
}

#[derive(Args, Debug)]
pub(crate) struct Ping {
    /// Name, address or key of the peer
    pub(crate) peer: String,
    /// How many probes to send
    #[arg(short = 'c', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) count: u32,
    /// Exit with 8 unless the last reply came by a direct path
    #[arg(long)]
    pub(crate) direct: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Invite {
    #[command(subcommand)]
    pub(crate) action: Option<InviteAction>,
    #[command(flatten)]
    pub(crate) create: InviteCreate,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InviteAction {
    /// Make an invite and print it alone on standard output
    Create(InviteCreate),
    /// List invites
    List,
    /// Void an invite that nobody has used
    Revoke {
        /// Id of the invite, or a start of it that no other has
        id: String,
    },
}

#[derive(Args, Clone, Debug)]
pub(crate) struct InviteCreate {
    /// How long it can be used, as 90s, 15m, 24h or 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = span)]
    pub(crate) expires: Duration,
    /// Name to propose to the machine that joins
    #[arg(long)]
    pub(crate) name: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Revoke {
    /// Name, address or key of the peer
    pub(crate) peer: String,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Ip {
    /// Name, address or key of the peer; this machine when left out
    pub(crate) peer: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServerAction {
    /// List the servers
    List,
    /// Add a server, by the founding string that it printed
    Add {
        /// The founding string; - reads it from standard input, file:PATH from a file
        #[arg(value_name = "FOUNDING|-|file:PATH")]
        founding: String,
    },
    /// Remove a server
    Remove {
        /// Address of the server, or the start of its key
        server: String,
    },
    /// Let a server order the log in place of the one that does
    Promote {
        /// Address of the server, or the start of its key
        server: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AdminAction {
    /// List the admins
    List,
    /// Make a member an admin
    Add {
        /// Name, address or key of the member
        peer: String,
    },
    /// Take an admin's rights
    Remove {
        /// Name, address or key of the member; for an admin that is no member, the start of its key
        peer: String,
    },
    /// Set how many admins must agree to a change
    Threshold {
        /// How many
        #[arg(value_parser = clap::value_parser!(u8).range(1..=8))]
        count: u8,
    },
}

#[derive(Args, Debug)]
pub(crate) struct PolicyChange {
    /// Let nobody new in once no admin has vouched for the log for seven days; --strict=false only warns
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) strict: Option<bool>,
    /// A member to get the rights that --rights names, in place of those that it has
    #[arg(long, value_name = "PEER", requires = "rights")]
    pub(crate) delegate: Option<String>,
    /// The rights of the delegate
    #[arg(long, value_name = "RIGHT", value_delimiter = ',', requires = "delegate")]
    pub(crate) rights: Vec<Right>,
}

/// A right of an admin that a delegate may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Right {
    /// To vouch for the log
    Leases,
    /// To invite
    Invites,
    /// No right
    None,
}

impl Right {
    /// The right as the daemon knows it.
    pub(crate) const fn of_delegate(self) -> Option<ginnel_local_api::Right> {
        match self {
            Self::Leases => Some(ginnel_local_api::Right::Leases),
            Self::Invites => Some(ginnel_local_api::Right::Invites),
            Self::None => None,
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Events {
    /// End after so many events; with --timeout, exit with 7 when fewer came
    #[arg(short = 'c', long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: Option<u32>,
}

#[derive(Args, Debug)]
pub(crate) struct Leave {
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Seconds with or without a fraction; 0 stands for no limit.
fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text} is not a number of seconds");
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    if duration.is_zero() { Ok(Duration::MAX) } else { Ok(duration) }
}

/// A number and a unit, as `90s`, `15m`, `24h` or `7d`.
fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text} is not a time; write 90s, 15m, 24h or 7d");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let unit = match text.get(digits.len()..) {
        Some("s" | "") => 1,
        Some("m") => 60,
        Some("h") => 3_600,
        Some("d") => 86_400,
        Some("w") => 604_800,
        Some(_) | None => return Err(wrong()),
    };
    match number.checked_mul(unit) {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        Some(_) | None => Err(wrong()),
    }
}

const EXAMPLES: &str = "\
Examples:
  ginnel up ginnel-invite-...      join the network that an invite names
  ginnel status                    see the network and the path to every peer
  ginnel ping laptop -c 5          probe a peer and name the path of each reply
  ginnel invite | ssh nas ginnel up -
";

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 daemon not reachable, 4 permission denied, 5 not joined, or
the invite is expired, used or taken back, 6 no such peer, invite or network, 7 no answer in time,
8 degraded, 9 configuration invalid, 10 some targets failed, 130 interrupted";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn flags_are_accepted_after_the_verb() {
        let arguments =
            Arguments::try_parse_from(["ginnel", "ping", "laptop", "--json", "--timeout", "0.5", "-c", "3"]).unwrap();
        assert_eq!(arguments.global.json, Some(1));
        assert_eq!(arguments.global.timeout, Some(Duration::from_millis(500)));
        assert!(matches!(arguments.verb, Verb::Ping(Ping { count: 3, .. })));
    }

    #[test]
    fn a_bare_invite_takes_the_options_of_create() {
        let arguments = Arguments::try_parse_from(["ginnel", "invite", "--expires", "15m", "--name", "nas"]).unwrap();
        let Verb::Invite(invite) = arguments.verb else { panic!("{arguments:?}") };
        assert!(invite.action.is_none());
        assert_eq!(invite.create.expires, Duration::from_secs(900));
    }

    #[test]
    fn a_misspelt_verb_is_answered_with_the_right_one() {
        let error = Arguments::try_parse_from(["ginnel", "stauts"]).unwrap_err().to_string();
        assert!(error.contains("status"), "{error}");
    }

    #[test]
    fn json_takes_no_version_but_the_first_and_no_separate_word() {
        assert!(Arguments::try_parse_from(["ginnel", "--json=2", "status"]).is_err());
        assert_eq!(Arguments::try_parse_from(["ginnel", "--json", "status"]).unwrap().global.json, Some(1));
    }

    #[test]
    fn what_health_advises_can_be_typed() {
        for text in [
            "ginnel leave --network work",
            "ginnel server promote SERVER --network work",
            "ginnel server remove 203.0.113.2:4433 --network work",
        ] {
            assert!(Arguments::try_parse_from(text.split(' ')).is_ok(), "{text}");
        }
    }

    #[test]
    fn shields_stay_unless_named() {
        let shields = |arguments: &[&str]| {
            let Verb::Up(up) = Arguments::try_parse_from(arguments).unwrap().verb else { panic!("{arguments:?}") };
            up.shields_up
        };
        assert_eq!(shields(&["ginnel", "up"]), None);
        assert_eq!(shields(&["ginnel", "up", "--shields-up"]), Some(true));
        assert_eq!(shields(&["ginnel", "up", "--shields-up=false"]), Some(false));
    }

    #[test]
    fn a_delegate_and_its_rights_come_together() {
        let rights = |arguments: &[&str]| {
            let Verb::Policy(policy) = Arguments::try_parse_from(arguments).unwrap().verb else {
                panic!("{arguments:?}")
            };
            policy.rights
        };
        assert_eq!(
            rights(&["ginnel", "policy", "--delegate", "nas", "--rights", "leases,invites"]),
            [Right::Leases, Right::Invites]
        );
        assert_eq!(rights(&["ginnel", "policy", "--delegate", "nas", "--rights", "none"]), [Right::None]);
        assert!(Arguments::try_parse_from(["ginnel", "policy", "--delegate", "nas"]).is_err());
        assert!(Arguments::try_parse_from(["ginnel", "policy", "--rights", "leases"]).is_err());
        assert!(Arguments::try_parse_from(["ginnel", "admin", "threshold", "0"]).is_err());
    }

    #[test]
    fn a_network_is_named_before_or_after_the_verb() {
        for arguments in [["ginnel", "--network", "work", "log"], ["ginnel", "log", "--network", "work"]] {
            let arguments = Arguments::try_parse_from(arguments).unwrap();
            assert_eq!(arguments.global.network.as_deref(), Some("work"));
        }
    }

    #[test]
    fn a_range_goes_with_a_string_and_no_ipv4_without_one_too() {
        let up = |arguments: &[&str]| match Arguments::try_parse_from(arguments).map(|arguments| arguments.verb) {
            Ok(Verb::Up(up)) => Some(up),
            Ok(verb) => panic!("{verb:?}"),
            Err(_) => None,
        };
        assert!(up(&["ginnel", "up", "--range", "100.72.0.0/16"]).is_none());
        let founding = up(&["ginnel", "up", "-", "--range", "100.72.0.0/16"]).unwrap();
        assert_eq!((founding.range.as_deref(), founding.no_ipv4), (Some("100.72.0.0/16"), None));
        assert_eq!(up(&["ginnel", "up", "--no-ipv4"]).unwrap().no_ipv4, Some(true));
        assert_eq!(up(&["ginnel", "up", "--no-ipv4=false"]).unwrap().no_ipv4, Some(false));
    }

    #[test]
    fn times_are_read_with_their_unit() {
        assert_eq!(span("7d"), Ok(Duration::from_secs(604_800)));
        for text in ["0s", "7y", "d", "", "-1s", "99999999999999999999s", "9999999999999999999w"] {
            assert!(span(text).is_err(), "{text}");
        }
        assert_eq!(seconds("0"), Ok(Duration::MAX));
        for text in ["-1", "nan", "inf", "1s"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
