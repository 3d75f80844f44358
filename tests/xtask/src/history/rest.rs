//! The rows of the list for which no mistake is made again: what keeps them from happening here.

/// A row without a patch.
pub(super) struct Rest {
    /// The row of the list of history.
    pub(super) id: &'static str,
    /// What went wrong elsewhere.
    pub(super) what: &'static str,
    /// What keeps it from going wrong here.
    pub(super) cover: Cover,
}

/// What covers a row.
pub(super) enum Cover {
    /// A test of the tree, by its function's name.
    Test(&'static str),
    /// A programme of `cargo xtask`.
    Programme(&'static str),
    /// The shape of the code leaves no place for it.
    Shape(&'static str),
    /// Nothing does, and why.
    Open(&'static str),
}

pub(super) const REST: &[Rest] = &[
    Rest {
        id: "T-03",
        what: "a counter of pointer size wraps on 32-bit machines and nonces repeat",
        cover: Cover::Shape("counters are u64 and have one owner; none is an atomic"),
    },
    Rest { id: "T-04", what: "a key and nonce are used twice", cover: Cover::Programme("sim: a rule of every world") },
    Rest {
        id: "T-14",
        what: "a changed preshared key does not reach the next handshake",
        cover: Cover::Shape("keys are read at the start; nothing changes them in a running daemon"),
    },
    Rest {
        id: "T-16",
        what: "sessions are dead after a suspend because the clock stood still",
        cover: Cover::Programme("sim: machines are suspended; the daemon reads the boot clock"),
    },
    Rest {
        id: "T-19",
        what: "a table is read while its entries are freed",
        cover: Cover::Shape("the data thread owns its tables alone; others send it commands"),
    },
    Rest {
        id: "T-23",
        what: "a packet goes to an address that another thread is just changing",
        cover: Cover::Shape("the data thread owns its tables alone; others send it commands"),
    },
    Rest {
        id: "T-29",
        what: "a key schedule differs from the standard's",
        cover: Cover::Test("our_initiation_is_answered_by_wireguard_go"),
    },
    Rest {
        id: "T-44",
        what: "a control port on loopback is reached by a web page",
        cover: Cover::Test("a_running_daemon_tells_no_secret_and_listens_on_no_tcp_port"),
    },
    Rest {
        id: "T-48",
        what: "an invite for one machine lets two in when they come at once",
        cover: Cover::Programme("lab invite-race"),
    },
    Rest {
        id: "T-51",
        what: "secrets are compared byte by byte until the first difference",
        cover: Cover::Shape("tags, cookies, nonces and tokens are compared in constant time, by the crate subtle"),
    },
    Rest {
        id: "T-52",
        what: "secrets reach the log",
        cover: Cover::Test("a_running_daemon_tells_no_secret_and_listens_on_no_tcp_port"),
    },
    Rest {
        id: "T-53",
        what: "the answers of a database or a broker are believed",
        cover: Cover::Shape("the one database is a file of the server's own, with a checksum for each row"),
    },
    Rest {
        id: "T-54",
        what: "routes of a hostile LAN lead traffic past the tunnel; tunnel addresses answer on the LAN",
        cover: Cover::Open("no full tunnel is built; whoever shares a LAN can see whether a tunnel address is there"),
    },
    Rest { id: "T-55", what: "links die with the servers", cover: Cover::Programme("lab servers-down") },
    Rest {
        id: "T-56",
        what: "large networks stall servers and machines",
        cover: Cover::Test("hundred_thousand_members_are_served"),
    },
    Rest {
        id: "T-57",
        what: "what is not freed fills the memory in days",
        cover: Cover::Programme("sim: resources are back at their baseline at the end of every world"),
    },
    Rest {
        id: "T-59",
        what: "a signal handler allocates",
        cover: Cover::Shape("signals are read as events; no code of ours runs in a handler"),
    },
];

impl Cover {
    /// In words, for the table.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Test(name) => format!("by the test {name}"),
            Self::Programme(name) => format!("by cargo xtask {name}"),
            Self::Shape(why) => format!("cannot happen: {why}"),
            Self::Open(why) => format!("NOT covered: {why}"),
        }
    }
}
