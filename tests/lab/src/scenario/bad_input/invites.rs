//! Strings that must not let anybody in, or not any more.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Book, Case, in_no_network, refused};
use crate::lab::Lab;
use crate::measure::ping;
use crate::nat::NatKind;
use crate::scenario::machine::{Addresses, Machine, Programs, Server};
use crate::site::Site;

/// A network with its founder, a guest who shall join it, another machine that gets in first, and a foreign network.
struct Town {
    founder: Machine,
    inner: Addresses,
    guest: Machine,
    other: Machine,
    stranger: Machine,
    server: Server,
    _foreign: Server,
    _lab: Lab,
}

pub(super) fn chapter(programs: &Programs, book: &Book<'_>) {
    let cases: [Case<Town>; 14] = [
        ("invite: random text", random_text),
        ("invite: cut short at several places", cut_short),
        ("invite: one character mistyped", mistyped),
        ("invite: a used founding string in an invite's place", used_founding),
        ("invite: an invite in a founding string's place", invite_for_founding),
        ("invite: expired", expired),
        ("invite: revoked", revoked),
        ("invite: revoked by an id that is none", revoked_unknown),
        ("invite: made by a guest", made_by_guest),
        ("invite: used twice", used_twice),
        ("invite: a fresh one after all that", fresh),
        ("invite: of the own network while joined", own_network),
        ("invite: of a foreign network while joined", foreign_network),
        ("invite: a used founding string while joined", founding_while_joined),
    ];
    book.chapter(|| Town::build(programs), &cases);
}

impl Town {
    fn build(programs: &Programs) -> Result<Self> {
        let lab = Lab::builder()
            .site(Site::new("founder", NatKind::Open))
            .site(Site::new("guest", NatKind::PortRestricted))
            .site(Site::new("other", NatKind::PortRestricted))
            .site(Site::server("hub"))
            .site(Site::server("foreign"))
            .build()?;
        let server = Server::start(&lab.host("hub")?, programs)?;
        let foreign = Server::start(&lab.host("foreign")?, programs)?;
        let founder = Machine::start(&lab.host("founder")?, programs)?;
        let inner = founder.up(&server.founding, "founder")?;
        let stranger = Machine::start(&lab.host("foreign")?, programs)?;
        stranger.up(&foreign.founding, "stranger")?;
        let guest = Machine::start(&lab.host("guest")?, programs)?;
        let other = Machine::start(&lab.host("other")?, programs)?;
        Ok(Self { founder, inner, guest, other, stranger, server, _foreign: foreign, _lab: lab })
    }

    /// Lets the guest try a string, which must be refused and leave it in no network.
    fn guest_refused(&self, ticket: &str, exit: i32, words: &[&str]) -> Result<String> {
        let said = refused(&self.guest, &["up", ticket, "--name", "guest"], exit, words)?;
        in_no_network(&self.guest)?;
        Ok(said)
    }

    /// Runs a request of the joined guest that must be refused and leave its membership as it was.
    fn member_refused(&self, arguments: &[&str], exit: i32, words: &[&str]) -> Result<String> {
        let before = self.guest.ginnel(&["ip"]).context("the guest is no member yet")?;
        let said = refused(&self.guest, arguments, exit, words)?;
        let after = self.guest.ginnel(&["ip"])?;
        ensure!(before == after, "the membership changed from {before} to {after}");
        let echo = ping(&self.guest.host, self.inner.v4.into(), 3, Duration::from_millis(100))?;
        ensure!(echo.received > 0, "no ping comes back after it");
        Ok(said)
    }
}

fn random_text(town: &Town) -> Result<String> {
    for text in ["", "correct horse battery staple", "https://example.org/join?x=1", "\u{1b}[2J", "ginnel-"] {
        town.guest_refused(text, USAGE, &[])?;
    }
    let long = format!("ginnel-invite-{}", "x".repeat(100_000));
    town.guest_refused(&long, USAGE, &["too long"])?;
    town.guest_refused(&long[..15_000], USAGE, &["characters after its end"])?;
    town.guest_refused("correct horse battery staple", USAGE, &["not a ginnel string", "ginnel-invite-"])
}

fn cut_short(town: &Town) -> Result<String> {
    let invite = town.founder.invite()?;
    let mut said = String::new();
    for length in [5, "ginnel-invite-".len(), 16, 20, invite.len() / 2, invite.len() - 1] {
        said = town.guest_refused(&invite[..length], USAGE, &["cut short", "whole"])?;
    }
    let twice = format!("{invite}{invite}");
    town.guest_refused(&twice, USAGE, &["after its end"])?;
    Ok(said)
}

fn mistyped(town: &Town) -> Result<String> {
    let invite = town.founder.invite()?;
    let mut said = String::new();
    for place in (0..invite.len()).step_by(29).chain([15, 17, 19, invite.len() - 1]) {
        let mut bytes = invite.clone().into_bytes();
        bytes[place] = if bytes[place] == b'q' { b'r' } else { b'q' };
        let text = String::from_utf8(bytes).context("an invite is ASCII")?;
        said = town.guest_refused(&text, USAGE, &[]).with_context(|| format!("character {place}"))?;
    }
    ensure!(said.contains("mistyped"), "{said}");
    Ok(said)
}

fn used_founding(town: &Town) -> Result<String> {
    town.guest_refused(&town.server.founding, NOT_JOINED, &["founding string", "ginnel invite"])
}

fn invite_for_founding(town: &Town) -> Result<String> {
    let invite = town.founder.invite()?;
    let arguments = ["up", &invite, "--network-name", "castle"];
    let said = refused(&town.guest, &arguments, USAGE, &["invite", "--network-name"])?;
    in_no_network(&town.guest)?;
    Ok(said)
}

fn expired(town: &Town) -> Result<String> {
    let made = town.founder.ginnel(&["invite", "--expires", "1s"])?;
    let invite = made["invite"].as_str().context("the invite's string is missing")?;
    std::thread::sleep(Duration::from_millis(2100));
    let said = town.guest_refused(invite, NOT_JOINED, &["expired", "fresh"])?;
    let list = town.founder.ginnel(&["invite", "list"])?;
    ensure!(state_of(&list, &made["id"]) == Some("expired"), "the list says otherwise: {list}");
    Ok(said)
}

fn revoked(town: &Town) -> Result<String> {
    let made = town.founder.ginnel(&["invite"])?;
    let (id, invite) = (made["id"].as_str().context("no id")?, made["invite"].as_str().context("no string")?);
    town.founder.ginnel(&["invite", "revoke", id])?;
    let list = town.founder.ginnel(&["invite", "list"])?;
    ensure!(state_of(&list, &made["id"]) == Some("revoked"), "the list says otherwise: {list}");
    town.guest_refused(invite, NOT_JOINED, &["took it back", "fresh"])
}

fn revoked_unknown(town: &Town) -> Result<String> {
    refused(&town.founder, &["invite", "revoke", ""], NOT_FOUND, &["invite list"])?;
    refused(&town.founder, &["invite", "revoke", "zz"], NOT_FOUND, &["invite list"])?;
    refused(&town.founder, &["invite", "revoke", "00000000000000000000"], NOT_FOUND, &["invite list"])
}

fn made_by_guest(town: &Town) -> Result<String> {
    refused(&town.guest, &["invite"], NOT_JOINED, &["ginnel up"])
}

fn used_twice(town: &Town) -> Result<String> {
    let invite = town.founder.invite()?;
    town.other.up(&invite, "other")?;
    let said = town.guest_refused(&invite, NOT_JOINED, &["used by another machine", "fresh"])?;
    refused(&town.other, &["invite"], DENIED, &["admin"])?;
    Ok(said)
}

fn fresh(town: &Town) -> Result<String> {
    let invite = town.founder.invite()?;
    let inner = town.guest.up(&invite, "guest")?;
    town.guest.wait_for_peers(1)?;
    let echo = ping(&town.guest.host, town.inner.v4.into(), 10, Duration::from_millis(100))?;
    ensure!(echo.received >= 8, "{} of 10 pings came back", echo.received);
    Ok(format!("joined as {}, {} of 10 pings came back", inner.v4, echo.received))
}

fn own_network(town: &Town) -> Result<String> {
    let before = town.guest.ginnel(&["ip"])?;
    let again = town.guest.ginnel(&["up", &town.founder.invite()?])?;
    ensure!(again["outcome"] == "unchanged", "a member's `up` answers {again}");
    ensure!(town.guest.ginnel(&["ip"])? == before, "the membership changed");
    Ok("unchanged".to_owned())
}

/// It is joined beside the first, under a name of its own here, and left again without a trace.
fn foreign_network(town: &Town) -> Result<String> {
    let before = town.guest.ginnel(&["ip"])?;
    let invite = town.stranger.invite()?;
    // Both may have one IPv4 range.
    let joined = town.guest.ginnel(&["up", &invite, "--no-ipv4"])?;
    ensure!(joined["network"] == "home-2", "the second network is called {}", joined["network"]);
    refused(&town.guest, &["leave", "--yes"], USAGE, &["home, home-2", "--network"])?;
    town.guest.ginnel(&["leave", "--network", "home-2", "--yes"])?;
    ensure!(town.guest.ginnel(&["ip"])? == before, "the first membership changed");
    let echo = ping(&town.guest.host, town.inner.v4.into(), 3, Duration::from_millis(100))?;
    ensure!(echo.received > 0, "no ping comes back after it");
    Ok("joined as home-2 and left".to_owned())
}

fn founding_while_joined(town: &Town) -> Result<String> {
    town.member_refused(&["up", &town.server.founding], NOT_JOINED, &["founding string", "ginnel invite"])
}

fn state_of<'a>(list: &'a serde_json::Value, id: &serde_json::Value) -> Option<&'a str> {
    list["invites"].as_array()?.iter().find(|invite| invite["id"] == *id)?["state"].as_str()
}

const USAGE: i32 = 2;
const DENIED: i32 = 4;
const NOT_JOINED: i32 = 5;
const NOT_FOUND: i32 = 6;
