//! `magpie dev` as its user has it: from one command to a cluster, and nothing left behind.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use common::{Process, free_ports, kill, magpie, processes_with, run, wait_until_gone};
use rustix::process::Signal;

struct Dev {
    process: Process,
    mqtt: u16,
    http: u16,
    /// In the command line of each of its nodes, and of no other process.
    data: tempfile::TempDir,
}

impl Dev {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let (mqtt, http, cluster) = (free_ports(3), free_ports(3), free_ports(3));
        let mut command = magpie(&["dev", "--data-dir", data.path().to_str().unwrap()]);
        command.args([
            "--mqtt-port",
            &mqtt.to_string(),
            "--http-port",
            &http.to_string(),
        ]);
        command.args(["--cluster-port", &cluster.to_string()]);
        let mut process = Process::start(command);
        process.wait_for("All 3 nodes are ready");
        Self {
            process,
            mqtt,
            http,
            data,
        }
    }

    fn node_directory(&self, number: u16) -> String {
        self.data
            .path()
            .canonicalize()
            .unwrap()
            .join(format!("node{number}"))
            .display()
            .to_string()
    }

    fn http(&self, number: u16) -> String {
        format!("127.0.0.1:{}", self.http + number - 1)
    }
}

#[test]
fn one_command_gives_a_cluster_that_carries_messages_and_survives_a_node() {
    let mut dev = Dev::start();
    dev.process.wait_for("Ctrl-C stops everything");

    // What it says one can type next works.
    let mqtt = |number: u16| (dev.mqtt + number - 1).to_string();
    let mut subscriber = Process::start(magpie(&[
        "sub",
        "-p",
        &mqtt(1),
        "-t",
        "hello/#",
        "-q",
        "1",
        "-v",
        "-C",
        "2",
    ]));
    let started = Instant::now();
    loop {
        let (_, clients, _) = run(&["ctl", "clients", "--json", "--http", &dev.http(1)]);
        let clients: serde_json::Value = serde_json::from_str(&clients).unwrap();
        if clients["clients"][0]["subscriptions"] == 1 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{clients}");
    }
    // And acknowledged.
    std::thread::sleep(Duration::from_secs(1));
    let publish = |number: u16, text: &str| {
        run(&[
            "pub",
            "-p",
            &mqtt(number),
            "-t",
            "hello/world",
            "-q",
            "1",
            "-m",
            text,
        ])
        .0
    };
    assert_eq!(publish(3, "good morning"), 0);
    subscriber.wait_for("hello/world good morning");

    assert_eq!(run(&["health", "--http", &dev.http(2)]).0, 0);
    let (code, status, _) = run(&["ctl", "status", "--http", &dev.http(1)]);
    assert_eq!(code, 0);
    assert!(
        status.contains("3 nodes up") && status.contains("node3"),
        "{status}"
    );
    let (_, nodes, _) = run(&["ctl", "nodes", "--json", "--http", &dev.http(1)]);
    let nodes: serde_json::Value = serde_json::from_str(&nodes).unwrap();
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 3);

    let victim = processes_with(&dev.node_directory(3));
    kill(victim[0], Signal::KILL);
    dev.process.wait_for("node3 was killed by signal 9");
    let again = dev.process.wait_for("start --data-dir");
    assert!(again.contains(&dev.node_directory(3)), "{again}");
    assert_eq!(publish(2, "still here"), 0);
    subscriber.wait_for("hello/world still here");
    assert_eq!(subscriber.end(), Some(0));

    dev.process.signal(Signal::INT);
    assert_eq!(dev.process.end(), Some(0), "{}", dev.process.seen);
    assert!(processes_with(&dev.node_directory(1)).is_empty());
    assert!(processes_with(&dev.node_directory(2)).is_empty());
}

#[test]
fn clients_are_listed_and_kicked_wherever_they_are() {
    let dev = Dev::start();
    let port = (dev.mqtt + 1).to_string();
    let mut subscriber = Process::start(magpie(&["sub", "-p", &port, "-i", "a/b", "-t", "x"]));
    let listed = || run(&["ctl", "clients", "--all-nodes", "--http", &dev.http(1)]).1;
    while !listed().contains("a/b") {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(listed().contains("node2"));
    let (code, said, error) = run(&["ctl", "kick", "a/b", "--http", &dev.http(1)]);
    assert_eq!(code, 0, "{error}");
    assert!(said.contains("from node2"), "{said}");
    let (code, _, error) = run(&["ctl", "kick", "nobody", "--http", &dev.http(1)]);
    assert_eq!(code, 1);
    assert!(error.contains("no client \"nobody\""), "{error}");
    subscriber.signal(Signal::KILL);
    let _ = subscriber.end();
}

#[test]
fn no_node_outlives_a_killed_dev() {
    let mut dev = Dev::start();
    dev.process.signal(Signal::KILL);
    assert_eq!(dev.process.end(), None);
    (1..=3).for_each(|number| wait_until_gone(&dev.node_directory(number)));
}

#[test]
fn a_port_in_use_is_one_clear_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, _, error) = run(&[
        "dev",
        "--nodes",
        "1",
        "--http-port",
        &port,
        "--mqtt-port",
        &free_ports(1).to_string(),
    ]);
    assert_eq!(code, 1);
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(
        error.contains(&format!(
            "port {port}, which node1 needs for HTTP, is in use"
        )),
        "{error}"
    );
}
