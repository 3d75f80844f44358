//! Joins by guess: wrong invites, wrong tokens, connections half open, and clients that say next to nothing.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ginnel_membership::invite::Token;
use ginnel_membership::{NetworkId, Server, SigningKey};
use ginnel_signal_proto::Credentials;

use super::field::{Aim, Field, Volley};
use crate::scenario::guest::{Guest, Road, endpoint, random, runtime};

/// What came of the connections.
#[derive(Default)]
struct Tally {
    refused: Cell<u64>,
    let_in: Cell<u64>,
    half_open: Cell<u64>,
    slow: Cell<u64>,
    cut: Cell<u64>,
}

/// Wrong invites, wrong founding tokens and keys that are no member's.
pub(super) fn guesses(field: &Field, aim: Aim, until: Instant) -> Result<Volley> {
    let network = field.invite_of(aim).network();
    let tally =
        crowd(
            field,
            aim,
            move |number, server, tally| async move { guess(number, &server, network, until, &tally).await },
        )?;
    let (refused, let_in) = (tally.refused.get(), tally.let_in.get());
    ensure!(let_in == 0, "{let_in} guesses were let in");
    ensure!(refused > 0, "no guess was ever answered, so this shows nothing");
    Ok(Volley::elsewhere(refused, format!("{refused} guesses from {GUESSERS} addresses, all refused")))
}

/// Connections that are begun and never finished.
pub(super) fn half_open(field: &Field, aim: Aim, until: Instant) -> Result<Volley> {
    let at = field.server_or(aim)?;
    let tally =
        crowd(field, aim, move |number, _, tally| async move { stay_half_open(number, at, until, &tally).await })?;
    let begun = tally.half_open.get();
    ensure!(begun > 0, "no connection was begun");
    Ok(Volley::elsewhere(begun, format!("{begun} begun under {GUESSERS} addresses that are not reached")))
}

/// Connections that say next to nothing.
pub(super) fn slow(field: &Field, aim: Aim, until: Instant) -> Result<Volley> {
    let tally =
        crowd(
            field,
            aim,
            move |number, server, tally| async move { say_little(number, &server, until, &tally).await },
        )?;
    let (slow, cut) = (tally.slow.get(), tally.cut.get());
    ensure!(slow > 0, "no slow client came in, so this shows nothing");
    Ok(Volley::elsewhere(slow, format!("{slow} clients that say a byte a second, {cut} of them cut")))
}

/// Runs `work` for each of many addresses at once.
fn crowd<F>(field: &Field, aim: Aim, work: impl Fn(u8, Server, Rc<Tally>) -> F) -> Result<Rc<Tally>>
where
    F: Future<Output = Result<()>> + 'static,
{
    let tally = Rc::new(Tally::default());
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime()?, async {
        let server = field.invite_of(aim).servers().first().context("an invite without a server")?;
        let spawn = |number| tokio::task::spawn_local(work(number, server.clone(), Rc::clone(&tally)));
        let tasks: Vec<_> = (0..GUESSERS).map(spawn).collect();
        for task in tasks {
            task.await.context("a guesser panicked")??;
        }
        anyhow::Ok(())
    })?;
    Ok(tally)
}

/// Guesses invites and founding tokens, one after the other.
async fn guess(number: u8, server: &Server, network: NetworkId, until: Instant, tally: &Tally) -> Result<()> {
    while Instant::now() < until {
        let key = SigningKey::from_bytes(&random());
        let credentials = match tally.refused.get() % 3 {
            0 => Credentials::Founder { token: Token::from_bytes(random()), key },
            1 => Credentials::Member { key },
            _ => Credentials::Joiner { invite: SigningKey::from_bytes(&random()), key },
        };
        match Guest::enter(socket(REAL, number)?, server, network, credentials).await {
            Ok(_) => tally.let_in.set(tally.let_in.get() + 1),
            Err(_) => tally.refused.set(tally.refused.get() + 1),
        }
        tokio::time::sleep(GUESS_PACE).await;
    }
    Ok(())
}

/// Begins connections under an address that answers do not find back to, so that none is ever finished.
async fn stay_half_open(number: u8, at: SocketAddr, until: Instant, tally: &Tally) -> Result<()> {
    let endpoint = endpoint(socket(NOWHERE, number)?)?;
    let mut begun = Vec::new();
    while Instant::now() < until {
        begun.push(endpoint.connect(at, "ginnel").context("connect")?);
        tally.half_open.set(tally.half_open.get() + 1);
        tokio::time::sleep(HALF_OPEN_PACE).await;
    }
    Ok(())
}

/// Connects, says a byte, and then another each second; counts whether the server bears it.
async fn say_little(number: u8, server: &Server, until: Instant, tally: &Tally) -> Result<()> {
    while Instant::now() < until {
        let Ok(mut road) = Road::open(socket(REAL, number)?, server).await else { continue };
        tally.slow.set(tally.slow.get() + 1);
        while Instant::now() < until {
            road.write(&[0]).await;
            if road.closed(Duration::from_secs(1)).await {
                tally.cut.set(tally.cut.get() + 1);
                break;
            }
        }
    }
    Ok(())
}

fn socket([a, b, c]: [u8; 3], last: u8) -> Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::new(a, b, c, last), 0)).context("bind a socket of many")
}

/// Where answers find back.
const REAL: [u8; 3] = [198, 19, 255];
/// Where they do not.
const NOWHERE: [u8; 3] = [198, 19, 254];
const GUESSERS: u8 = 48;
const HALF_OPEN_PACE: Duration = Duration::from_millis(100);
/// Each guesser stays below what a server grants one address, so that it is the server as a whole that is tried.
const GUESS_PACE: Duration = Duration::from_millis(500);
