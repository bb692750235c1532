//! `magpie start` as an operator and a service manager have it: signals, exit codes, sentences.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::process::Command;

use common::{Process, free_ports, magpie, run};
use rustix::process::Signal;

/// A cluster of one.
fn node(data: &tempfile::TempDir, ports: u16) -> Command {
    let at = |offset: u16| format!("127.0.0.1:{}", ports + offset);
    let mut command = magpie(&["start", "--data-dir", data.path().to_str().unwrap()]);
    command.args([
        "--mqtt-listen",
        &at(0),
        "--http-listen",
        &at(1),
        "--cluster-listen",
        &at(2),
    ]);
    command
}

#[test]
fn a_node_stops_as_asked_and_starts_again() {
    let data = tempfile::tempdir().unwrap();
    let ports = free_ports(3);
    let http = format!("127.0.0.1:{}", ports + 1);
    for signal in [Signal::TERM, Signal::INT] {
        let mut process = Process::start(node(&data, ports));
        let line = process.wait_for("magpie starts");
        assert!(line.contains("node_id=") && line.contains(&http), "{line}");
        process.wait_for("listening");
        assert_eq!(run(&["health", "--http", &http]).0, 0);
        process.signal(signal);
        assert_eq!(process.end(), Some(0), "{}", process.seen);
        assert_eq!(run(&["health", "--http", &http]).0, 1);
    }
}

#[test]
fn a_drained_node_goes_on_until_it_is_stopped() {
    let data = tempfile::tempdir().unwrap();
    let ports = free_ports(3);
    let http = format!("127.0.0.1:{}", ports + 1);
    let mut process = Process::start(node(&data, ports));
    process.wait_for("listening");
    // There is nobody to hand the leaderships to.
    let (code, _, error) = run(&["ctl", "drain", "--timeout", "8", "--http", &http]);
    assert_eq!(code, 1);
    assert!(error.contains("still has 0 clients and leads"), "{error}");
    let (code, _, error) = run(&["health", "--http", &http]);
    assert_eq!(
        (code, error.as_str()),
        (1, "magpie: not ready: the node drains\n")
    );
    process.signal(Signal::TERM);
    assert_eq!(process.end(), Some(0), "{}", process.seen);
}

#[test]
fn a_second_process_in_the_same_directory_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let mut first = Process::start(node(&data, free_ports(3)));
    first.wait_for("listening");
    let mut second = Process::start(node(&data, free_ports(3)));
    assert_eq!(second.end(), Some(1), "{}", second.seen);
}

#[test]
fn what_cannot_work_is_told_at_once_and_with_exit_code_1() {
    let (code, _, error) = run(&[
        "start",
        "--seeds",
        "a:1,b",
        "--max-half-open",
        "0",
        "--log-format",
        "xml",
    ]);
    assert_eq!(code, 1);
    assert_eq!(error.lines().count(), 4, "{error}");
    let (code, _, same) = run(&[
        "check-config",
        "--seeds",
        "a:1,b",
        "--max-half-open",
        "0",
        "--log-format",
        "xml",
    ]);
    assert_eq!(code, 1);
    assert_eq!(error.trim_start_matches("magpie: "), same);
    assert_eq!(run(&["check-config"]).0, 0);
    assert_eq!(run(&["start", "--no-such-flag"]).0, 2);
}
