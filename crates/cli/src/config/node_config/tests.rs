#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

fn load(variables: &[(&str, &str)]) -> Result<NodeConfig, Problems> {
    NodeConfig::load(&Layers {
        variables: variables
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect(),
        ..Layers::default()
    })
}

fn check(variables: &[(&str, &str)], expected: &[&str]) {
    let problems = load(variables).map_or_else(|problems| problems.to_string(), |_| String::new());
    assert_eq!(problems.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn the_defaults_can_be_started() {
    let config = load(&[]).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.cluster.cluster_advertise, "127.0.0.1:7883");
    assert_eq!(config.cluster.mqtt_addr, "127.0.0.1:1883");
    assert_eq!(config.cluster.http_addr, "127.0.0.1:9883");
}

#[test]
fn a_cluster_needs_a_secret_and_an_address_to_dial() {
    let seeds = ("MAGPIE_SEEDS", "a:7883,b,:1,c:0");
    let problems = load(&[seeds, ("MAGPIE_CLUSTER_LISTEN", "0.0.0.0:7883")])
        .err()
        .unwrap();
    let text = problems.to_string();
    assert_eq!(problems.0.len(), 5, "{text}");
    assert!(
        text.contains("cluster_secret_file: a cluster with seeds needs a secret"),
        "{text}"
    );
    assert!(text.contains("MAGPIE_SEEDS: \"b\" has no port"), "{text}");
    assert!(text.contains("MAGPIE_SEEDS: \":1\" has no host"), "{text}");
    assert!(
        text.contains("MAGPIE_SEEDS: \"c:0\" has no valid port"),
        "{text}"
    );
    assert!(text.contains("cluster_advertise: must be set"), "{text}");
}

#[test]
fn others_are_told_the_advertised_host_for_listeners_on_all_addresses() {
    let config = load(&[
        ("MAGPIE_SEEDS", "n1:7883,n2:7883,n3:7883"),
        ("MAGPIE_CLUSTER_SECRET", "s"),
        ("MAGPIE_CLUSTER_LISTEN", "0.0.0.0:7883"),
        ("MAGPIE_CLUSTER_ADVERTISE", "n1:7883"),
        ("MAGPIE_MQTT_LISTEN", "[::]:1883"),
        ("MAGPIE_HTTP_LISTEN", "0.0.0.0:9883"),
        ("MAGPIE_ALLOW_ANONYMOUS", "true"),
    ])
    .unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.cluster.mqtt_addr, "n1:1883");
    assert_eq!(config.cluster.http_addr, "n1:9883");
}

#[test]
fn values_that_do_not_go_together_are_told_with_their_keys() {
    check(
        &[
            ("MAGPIE_HTTP_LISTEN", "127.0.0.1:1883"),
            ("MAGPIE_CLUSTER__DOWN_AFTER", "1s"),
            ("MAGPIE_LOG_LEVEL", "a=b=c"),
        ],
        &[
            "MAGPIE_CLUSTER__DOWN_AFTER: must be at least five times quorum_lost_after",
            "MAGPIE_LOG_LEVEL: \"a=b=c\" is no log level; write one like info, or info,magpie_cluster=debug",
            "MAGPIE_HTTP_LISTEN: 127.0.0.1:1883 is also mqtt_listen; give each its own port",
        ],
    );
}

#[test]
fn a_secret_that_cannot_be_read_is_told_once() {
    let problems = load(&[
        ("MAGPIE_SEEDS", "a:1"),
        ("MAGPIE_CLUSTER_SECRET_FILE", "/nowhere/secret"),
    ])
    .err()
    .unwrap();
    assert_eq!(problems.0.len(), 1, "{problems}");
    assert!(
        problems
            .to_string()
            .starts_with("MAGPIE_CLUSTER_SECRET_FILE: /nowhere/secret cannot be read")
    );
}
