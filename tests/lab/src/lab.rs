//! A laboratory: built from sites, taken down by its drop.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::blueprint::{self, Blueprint, Cable, Role, Uplink};
use crate::delay::line::Tally;
use crate::delay::{DelayBox, End, Link, Order, Plan, Shape};
use crate::host::{Host, Roster};
use crate::namespace::{self, Namespace, PREFIX};
use crate::nat::NatKind;
use crate::site::{Lans, Site};

/// A running laboratory.
///
/// Its namespaces, processes and files are gone when it is dropped, also by a panic; the guardian does the same when
/// this process dies without dropping it.
#[derive(Debug)]
pub struct Lab {
    // Taken down in this order by `drop`.
    roster: Arc<Roster>,
    delay_box: Option<DelayBox>,
    namespaces: Vec<Namespace>,
    hosts: Vec<Host>,
    sites: Vec<Site>,
    scratch: TempDir,
}

/// Collects what a laboratory is to consist of.
#[derive(Debug, Default)]
pub struct Builder {
    sites: Vec<Site>,
    seed: u64,
    helper: Option<PathBuf>,
}

impl Lab {
    /// Starts with an internet that has no sites.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Builds site `a` behind `a`, site `b` behind `b` and the public server `hub`.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn pair(a: NatKind, b: NatKind) -> Result<Self> {
        Self::builder().site(Site::new("a", a)).site(Site::new("b", b)).site(Site::server("hub")).build()
    }

    /// Builds site `a` with two hosts on one network, behind a NAT that does not serve its own outer address, and `hub`.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn same_lan() -> Result<Self> {
        let site = Site::new("a", NatKind::PortRestricted).hosts(2);
        Self::builder().site(site).site(Site::server("hub")).build()
    }

    /// Builds site `a` with two hosts on networks kept apart, behind one NAT that serves its own outer address, and `hub`.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn same_nat_hairpin() -> Result<Self> {
        let site = Site::new("a", NatKind::Hairpin).hosts(2).lans(Lans::Isolated);
        Self::builder().site(site).site(Site::server("hub")).build()
    }

    /// Removes what laboratories of dead processes left, and answers how many namespaces that were.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn sweep_stale() -> Result<usize> {
        namespace::sweep_stale()
    }

    /// Makes the uplink of `site` behave otherwise from the next frame on; `up` leads out of the site.
    ///
    /// # Errors
    /// When there is no such site.
    pub fn reshape(&self, site: &str, up: Shape, down: Shape) -> Result<()> {
        let order = Order::Reshape { link: self.link(site)?, a_to_b: up, b_to_a: down };
        self.delay_box()?.order(order).map(drop)
    }

    /// What the delay box did on the uplink of `site`, out of the site and into it.
    ///
    /// # Errors
    /// When there is no such site.
    pub fn tally(&self, site: &str) -> Result<[Tally; 2]> {
        let order = Order::Count { link: self.link(site)? };
        self.delay_box()?.order(order)?.context("the delay box gave no tally")
    }

    /// The first host of `site`.
    ///
    /// # Errors
    /// When there is none.
    pub fn host(&self, site: &str) -> Result<Host> {
        self.host_at(site, 0)
    }

    /// The host of `site` with this number, from zero.
    ///
    /// # Errors
    /// When there is none.
    pub fn host_at(&self, site: &str, number: u8) -> Result<Host> {
        self.find(&Role::Host { site: site.to_owned(), number })
    }

    /// The NAT of `site` that has the public address: the carrier's, where there are two.
    ///
    /// # Errors
    /// When there is none.
    pub fn nat(&self, site: &str) -> Result<Host> {
        self.find(&Role::CarrierNat { site: site.to_owned() }).or_else(|_| self.home_nat(site))
    }

    /// The NAT that the hosts of `site` are wired to.
    ///
    /// # Errors
    /// When there is none.
    pub fn home_nat(&self, site: &str) -> Result<Host> {
        self.find(&Role::Nat { site: site.to_owned() })
    }

    /// The machine by which the internet knows `site`: its public NAT, or its first host if that is public.
    ///
    /// # Errors
    /// When there is no such site.
    pub fn face(&self, site: &str) -> Result<Host> {
        self.nat(site).or_else(|_| self.host(site))
    }

    /// A router of `site`: 1 is next to the NAT, 3 next to the core.
    ///
    /// # Errors
    /// When there is none.
    pub fn router(&self, site: &str, number: u8) -> Result<Host> {
        self.find(&Role::Router { site: site.to_owned(), number })
    }

    /// Every namespace of the laboratory.
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }

    /// The laboratory's own directory, gone with it.
    pub fn files(&self) -> &std::path::Path {
        self.scratch.path()
    }

    fn find(&self, role: &Role) -> Result<Host> {
        self.hosts.iter().find(|host| host.role() == role).cloned().with_context(|| format!("there is no {role:?}"))
    }

    fn link(&self, site: &str) -> Result<usize> {
        self.sites.iter().position(|known| known.name == site).with_context(|| format!("there is no site {site}"))
    }

    fn delay_box(&self) -> Result<&DelayBox> {
        self.delay_box.as_ref().context("the laboratory has no delay box")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.roster.stop_all();
        self.delay_box = None;
        // What cannot be removed here the guardian tries again; a drop has nobody to tell.
        drop(Namespace::remove_all(&self.namespaces));
    }
}

impl Builder {
    /// Adds a site.
    #[must_use]
    pub fn site(mut self, site: Site) -> Self {
        self.sites.push(site);
        self
    }

    /// Sets the seed of loss and jitter.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Names the program that serves as delay box; without it, [`crate::HELPER_VARIABLE`] or this process's own.
    #[must_use]
    pub fn helper(self, program: impl Into<PathBuf>) -> Self {
        Self { helper: Some(program.into()), ..self }
    }

    /// Builds the laboratory.
    ///
    /// # Errors
    /// When the sites contradict each other, this process is not root, or a tool is missing or refuses.
    pub fn build(self) -> Result<Lab> {
        crate::setup::require_root()?;
        let print = Blueprint::draw(&self.sites)?;
        let helper = match self.helper {
            Some(program) => program,
            None => default_helper()?,
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}{}-{number}-", std::process::id());
        let namespaces: Vec<Namespace> =
            print.nodes.iter().map(|node| Namespace::named(format!("{prefix}{}", node.name))).collect();
        let roster = Arc::new(Roster::default());
        let scratch = crate::files::scratch()?;
        let hosts = print.nodes.iter().zip(&namespaces);
        let hosts = hosts.map(|(node, space)| Host::new(node, space.clone(), scratch.path(), &roster)).collect();
        let mut lab = Lab { roster, delay_box: None, namespaces, hosts, sites: self.sites, scratch };

        Namespace::create_all(&lab.namespaces)?;
        for (node, space) in print.nodes.iter().zip(&lab.namespaces) {
            space.sysctl(&node.sysctl)?;
        }
        lab.lay_cables(&print.cables)?;
        let links = print.uplinks.iter().map(|uplink| lab.uplink(uplink)).collect();
        lab.delay_box = Some(DelayBox::start(&helper, &Plan { seed: self.seed, links })?);
        lab.configure(&print)?;
        lab.await_ipv6()?;
        Ok(lab)
    }
}

impl Lab {
    fn lay_cables(&self, cables: &[Cable]) -> Result<()> {
        let line = |Cable { ends: [(a, near), (b, far)] }: &Cable| {
            let [a, b] = [a, b].map(|node| self.namespaces[*node].name());
            format!("link add name {near} netns {a} type veth peer name {far} netns {b}\n")
        };
        namespace::ip_batch_everywhere(&cables.iter().map(line).collect::<String>()).context("lay cables")
    }

    fn uplink(&self, uplink: &Uplink) -> Link {
        let end = |node: usize, interface: &str| End {
            namespace: self.namespaces[node].path(),
            interface: interface.to_owned(),
        };
        Link { a: end(uplink.inner, "north"), b: end(uplink.outer, "south"), a_to_b: uplink.up, b_to_a: uplink.down }
    }

    /// Addresses, routes and rules, a few namespaces at a time.
    fn configure(&self, print: &Blueprint) -> Result<()> {
        let work: Vec<_> = print.nodes.iter().zip(&self.namespaces).collect();
        let share = work.len().div_ceil(WORKERS).max(1);
        std::thread::scope(|scope| {
            let workers: Vec<_> = work
                .chunks(share)
                .map(|chunk| {
                    scope.spawn(move || {
                        chunk.iter().try_for_each(|(node, space)| {
                            space.ip(&node.ip)?;
                            space.nft(&node.nft)
                        })
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }
}

impl Lab {
    /// Waits until IPv6 reaches the core from every host that has it: the kernel takes up to a second to declare new
    /// links ready, and until then loses the first neighbour solicitations.
    fn await_ipv6(&self) -> Result<()> {
        let dual: Vec<&Host> = self
            .hosts
            .iter()
            .filter(|host| matches!(host.role(), Role::Host { .. }) && host.ipv6().is_some())
            .collect();
        std::thread::scope(|scope| {
            let waiting: Vec<_> = dual
                .iter()
                .map(|host| {
                    scope.spawn(|| {
                        let argv = ["ping", "-6", "-n", "-q", "-i0.05", "-c1", "-w5", blueprint::CORE_IPV6];
                        host.run(&argv, Duration::from_secs(10))?
                            .success()
                            .with_context(|| format!("IPv6 of {}", host.name()))
                    })
                })
                .collect();
            waiting.into_iter().try_for_each(|waiting| match waiting.join() {
                Ok(outcome) => outcome.map(drop),
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }
}

/// The program that serves as delay box where the builder names none.
pub(crate) fn default_helper() -> Result<PathBuf> {
    if let Some(program) = std::env::var_os(crate::HELPER_VARIABLE) {
        let program = PathBuf::from(program);
        if !program.is_file() {
            bail!("{} names {}, which is no file", crate::HELPER_VARIABLE, program.display());
        }
        return Ok(program);
    }
    std::env::current_exe().context("find this program's own file")
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Threads that configure namespaces.
const WORKERS: usize = 4;
