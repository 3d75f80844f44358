//! The laboratory's checks of itself, for those who run tests as root: `cargo test -p ginnel-lab -- --ignored`.

use std::process::Command;

use ginnel_lab::{Lab, NatKind, namespace};

#[test]
#[ignore = "needs root, and the tools that `ginnel-lab setup` installs"]
fn every_check_passes() {
    let output = Command::new(env!("CARGO_BIN_EXE_ginnel-lab")).arg("selfcheck").output().expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
#[ignore = "needs root"]
fn a_helper_that_is_no_delay_box_is_named_and_nothing_is_left_behind() {
    let site = ginnel_lab::Site::new("a", NatKind::PortRestricted);
    let error = Lab::builder().site(site).helper("/bin/true").build().expect_err("true is no delay box");
    let text = format!("{error:#}");
    assert!(text.contains("/bin/true") && text.contains("dispatch_hidden"), "{text}");
    assert!(namespace::of_process(std::process::id()).is_empty());
}

#[test]
fn an_unknown_check_is_a_failure_not_an_empty_success() {
    let output = Command::new(env!("CARGO_BIN_EXE_ginnel-lab"))
        .args(["selfcheck", "no-such-check", "--format=json"])
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "[]");
}
