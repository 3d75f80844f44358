use super::*;
use crate::answer_binding;

const SERVER: &str = "192.0.2.1:3478";

fn client() -> BindingClient {
    BindingClient::new([3; 32], Config::default())
}

fn at(millis: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(millis)
}

fn server() -> SocketAddr {
    SERVER.parse().unwrap()
}

fn ask(client: &mut BindingClient, now: Instant, socket: u16, server: SocketAddr) -> Vec<u8> {
    client.handle_input(now, Input::Query { socket, server }).unwrap();
    match client.poll_output() {
        Some(Output::Send { socket: from, to, bytes }) if from == socket && to == server => bytes,
        other => panic!("a query sends a request at once, not {other:?}"),
    }
}

#[test]
fn answer_gives_the_mapped_address() {
    let mut client = client();
    let request = ask(&mut client, at(0), 4, server());
    let mapped: SocketAddr = "198.51.100.7:40000".parse().unwrap();
    let bytes = answer_binding(&request, mapped).unwrap();
    client.handle_input(at(20), Input::Received { socket: 4, from: server(), bytes }).unwrap();
    assert_eq!(client.poll_output(), Some(Output::Mapped { socket: 4, server: server(), mapped }));
    assert_eq!((client.poll_output(), client.poll_timeout()), (None, None));
}

#[test]
fn requests_are_never_smaller_than_answers() {
    let request = ask(&mut client(), at(0), 0, server());
    assert!(request.len() >= 92);
    let answer = answer_binding(&request, "[2001:db8::1]:9".parse().unwrap()).unwrap();
    assert!(answer.len() <= request.len());
}

#[test]
fn requests_are_repeated_with_doubling_waits_and_then_given_up() {
    let mut client = client();
    ask(&mut client, at(0), 0, server());
    let mut sent = Vec::new();
    let failed = loop {
        let now = client.poll_timeout().expect("an open transaction has a deadline");
        client.handle_timeout(now);
        match client.poll_output().expect("a deadline does something") {
            Output::Send { .. } => sent.push(now.as_nanos() / 1_000_000),
            Output::Failed { .. } => break now,
            Output::Mapped { .. } => panic!("nobody answered"),
        }
    };
    assert_eq!(sent, [100, 300, 700, 1500, 3100, 6300]);
    assert_eq!(failed, at(7900));
    assert_eq!(client.poll_timeout(), None);
}

#[test]
fn answers_from_elsewhere_and_with_other_ids_are_discarded() {
    let mut client = client();
    let request = ask(&mut client, at(0), 1, server());
    let bytes = answer_binding(&request, "198.51.100.7:1".parse().unwrap()).unwrap();
    let elsewhere: SocketAddr = "192.0.2.2:3478".parse().unwrap();
    let received = |socket, from, bytes: &[u8]| Input::Received { socket, from, bytes: bytes.to_vec() };
    assert_eq!(client.handle_input(at(1), received(1, elsewhere, &bytes)), Err(Discard::WrongSource));
    assert_eq!(client.handle_input(at(1), received(2, server(), &bytes)), Err(Discard::WrongSource));
    let mut other = bytes.clone();
    other[19] ^= 1;
    assert_eq!(client.handle_input(at(1), received(1, server(), &other)), Err(Discard::UnknownTransaction));
    assert_eq!(client.handle_input(at(1), received(1, server(), &request)), Err(Discard::NotAnAnswer));
    client.handle_input(at(1), received(1, server(), &bytes)).unwrap();
    assert_eq!(client.handle_input(at(1), received(1, server(), &bytes)), Err(Discard::UnknownTransaction));
}

#[test]
fn success_without_a_usable_address_leaves_the_question_open() {
    let mut client = client();
    let request = ask(&mut client, at(0), 1, server());
    let bytes = answer_binding(&request, "0.0.0.0:1".parse().unwrap()).unwrap();
    let input = Input::Received { socket: 1, from: server(), bytes };
    assert_eq!(client.handle_input(at(1), input), Err(Discard::NoAddress));
    assert_eq!(client.open(), 1);
}

#[test]
fn refusal_fails_the_question() {
    let mut client = client();
    let request = ask(&mut client, at(0), 1, server());
    let id = Message::decode(&request).unwrap().transaction();
    let bytes = Builder::new(Class::Error, Method::Binding, id).error(400).encode().unwrap();
    client.handle_input(at(1), Input::Received { socket: 1, from: server(), bytes }).unwrap();
    assert_eq!(client.poll_output(), Some(Output::Failed { socket: 1, server: server() }));
}

#[test]
fn transactions_are_bounded_and_repeated_queries_are_one() {
    let mut client = client();
    for socket in 0..u16::try_from(MAX_TRANSACTIONS).unwrap() {
        client.handle_input(at(0), Input::Query { socket, server: server() }).unwrap();
        client.handle_input(at(0), Input::Query { socket, server: server() }).unwrap();
    }
    let one_more = Input::Query { socket: 999, server: server() };
    assert_eq!(client.handle_input(at(0), one_more), Err(Discard::TooManyTransactions));
    assert_eq!(client.open(), MAX_TRANSACTIONS);
    assert_eq!(std::iter::from_fn(|| client.poll_output()).count(), MAX_TRANSACTIONS);
}

#[test]
fn time_that_runs_backwards_counts_as_the_latest() {
    let mut client = client();
    ask(&mut client, at(1000), 0, server());
    client.handle_timeout(at(0));
    assert_eq!(client.poll_output(), None);
    assert_eq!(client.poll_timeout(), Some(at(1100)));
}
