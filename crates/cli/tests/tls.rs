//! TLS as an operator has it: the files, SIGHUP, what `check-config` says of them, and clients of the command line.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;

use common::{Process, free_ports, magpie, run};
use rustix::process::Signal;

/// A certificate that is its own authority, and its key.
fn certify(directory: &Path) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("node.pem"), made.cert.pem()).unwrap();
    std::fs::write(directory.join("node.key"), made.signing_key.serialize_pem()).unwrap();
}

#[test]
fn clients_come_over_tls_and_sighup_brings_a_new_certificate() {
    let data = tempfile::tempdir().unwrap();
    let path = |name: &str| data.path().join(name).to_str().unwrap().to_owned();
    certify(data.path());
    let first = path("first.pem");
    std::fs::copy(path("node.pem"), &first).unwrap();
    let ports = free_ports(4);
    let at = |offset: u16| format!("127.0.0.1:{}", ports + offset);
    let mut command = magpie(&["start", "--data-dir", &path("data")]);
    command.args(["--mqtt-listen", &at(0), "--http-listen", &at(1)]);
    command.args(["--cluster-listen", &at(2), "--mqtts-listen", &at(3)]);
    command.args([
        "--tls-cert",
        &path("node.pem"),
        "--tls-key",
        &path("node.key"),
    ]);
    let mut process = Process::start(command);
    process.wait_for("listening");

    let port = (ports + 3).to_string();
    let publish = |trust: &[&str]| {
        let what = [
            "pub", "-p", &port, "-q", "1", "-r", "-t", "a", "-m", "hello",
        ];
        run(&[&what[..], trust].concat()).0
    };
    assert_eq!(publish(&["--cafile", &first]), 0);
    assert_eq!(publish(&["--insecure"]), 0);
    let (code, out, error) = run(&["sub", "-p", &port, "-t", "a", "-C", "1", "--cafile", &first]);
    assert_eq!((code, out.as_str()), (0, "hello\n"), "{error}");

    certify(data.path());
    process.signal(Signal::HUP);
    process.wait_for("the certificate was read again");
    assert_ne!(publish(&["--cafile", &first]), 0);
    assert_eq!(publish(&["--cafile", &path("node.pem")]), 0);
    // One that cannot be used changes nothing.
    std::fs::write(path("node.key"), "").unwrap();
    process.signal(Signal::HUP);
    process.wait_for("the certificate from before stays");
    assert_eq!(publish(&["--cafile", &path("node.pem")]), 0);
    process.signal(Signal::TERM);
    assert_eq!(process.end(), Some(0), "{}", process.seen);
}

#[test]
fn problems_with_certificates_are_told_by_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    certify(directory.path());
    let key = std::fs::read(path("node.key")).unwrap();
    certify(directory.path());
    let config = format!(
        "wss_listen = \"127.0.0.1:8084\"\ntls_cert = \"{}\"\ntls_key = \"{}\"\n",
        path("node.pem"),
        path("node.key")
    );
    std::fs::write(path("magpie.toml"), config).unwrap();
    let check = || run(&["check-config", "--config", &path("magpie.toml")]);
    assert_eq!(check().0, 0);
    std::fs::write(path("node.key"), key).unwrap();
    let (code, _, error) = check();
    assert_eq!(code, 1);
    assert!(error.contains("magpie.toml:3: tls_key: "), "{error}");
    assert!(
        error.contains("is not the key of the certificate"),
        "{error}"
    );
}
