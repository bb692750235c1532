#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use super::super::problem::Problems;
use super::*;

/// The settings of these layers, or all that is wrong with them.
fn settings(layers: &Layers) -> Result<Settings, Problems> {
    let (layered, problems) = merge(layers);
    if problems.is_empty() {
        Ok(layered.settings)
    } else {
        Err(Problems(problems))
    }
}

fn layers(
    file: &str,
    variables: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> (tempfile::TempDir, Layers) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("magpie.toml");
    std::fs::write(&path, file).unwrap();
    let owned = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()))
            .collect()
    };
    let layers = Layers {
        file: Some(path),
        variables: owned(variables),
        flags: owned(flags),
    };
    (directory, layers)
}

fn good(file: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Settings {
    let (_directory, layers) = layers(file, variables, flags);
    settings(&layers).unwrap()
}

/// What is wrong, one line each, without the directory of the file.
fn check(file: &str, variables: &[(&str, &str)], flags: &[(&str, &str)], expected: &[&str]) {
    let (directory, layers) = layers(file, variables, flags);
    let problems =
        settings(&layers).map_or_else(|problems| problems.to_string(), |_| String::new());
    let directory = format!("{}/", directory.path().display());
    let found: Vec<_> = problems
        .lines()
        .map(|line| line.replace(&directory, ""))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn nothing_set_gives_the_defaults() {
    assert_eq!(settings(&Layers::default()).unwrap(), Settings::default());
}

#[test]
fn each_layer_covers_the_one_before() {
    let file = "partitions = 4\nreplication_factor = 1\nlog_level = \"warn\"\n[session]\nreceive_maximum = 7\ninflight_max = 8";
    let variables = [
        ("MAGPIE_REPLICATION_FACTOR", "5"),
        ("MAGPIE_LOG_LEVEL", "debug"),
        ("MAGPIE_SESSION__INFLIGHT_MAX", "9"),
    ];
    let settings = good(file, &variables, &[("log_level", "trace")]);
    assert_eq!(settings.partitions, 4);
    assert_eq!(settings.replication_factor, 5);
    assert_eq!(settings.log_level, "trace");
    assert_eq!(settings.session.receive_maximum, 7);
    assert_eq!(settings.session.inflight_max, 9);
    assert_eq!(settings.session.topic_levels, 128);
}

#[test]
fn values_have_types() {
    let file = "seeds = [\"a:1\", \"b:2\"]\n[cluster]\ndown_after = \"20s\"\nqueue_bytes = \"1MiB\"\n[mailbox]\nmessages_max = 5";
    let variables = [
        ("MAGPIE_NODE_NAME", "17"),
        ("MAGPIE_DIRECT_FILTERS", "a/#, b/+"),
        ("MAGPIE_ALLOW_ANONYMOUS", "true"),
    ];
    let settings = good(
        file,
        &variables,
        &[("mqtt_listen", "[::]:1883"), ("proxy_protocol", "true")],
    );
    assert_eq!(settings.seeds, ["a:1", "b:2"]);
    assert_eq!(settings.direct_filters, ["a/#", "b/+"]);
    assert_eq!(settings.cluster.down_after, Duration::from_secs(20));
    assert_eq!(settings.cluster.queue_bytes.as_u64(), 1 << 20);
    assert_eq!(settings.node_name, "17");
    assert_eq!(settings.listener.allow_anonymous, Some(true));
    assert!(settings.listener.proxy_protocol);
    assert_eq!(
        settings.listener.mqtt_listen,
        Some("[::]:1883".parse().unwrap())
    );
}

#[test]
fn all_mistakes_are_told_at_once_with_their_places() {
    let file = "partitons = 4\nmqtt_listen = \"localhost\"\n\n[session]\nreceive_maximum = 70000\nmax_packet_size = \"big\"\n[colour]\nred = 1\n";
    let variables = [
        ("MAGPIE_PARTITIONS", "many"),
        ("MAGPIE_LOG_FORMAT", "xml"),
        ("MAGPIE_SESION__X", "1"),
    ];
    check(
        file,
        &variables,
        &[("replication_factor", "-1")],
        &[
            "magpie.toml:1: partitons: there is no such key; did you mean partitions?",
            "magpie.toml:2: mqtt_listen: \"localhost\": expected an address and a port like \"127.0.0.1:1883\" or \"[::]:1883\"",
            "magpie.toml:5: session.receive_maximum: 70000: expected a whole number from 0 to 65535",
            "magpie.toml:6: session.max_packet_size: \"big\": expected a size like \"64KiB\" or \"1MiB\"",
            "magpie.toml:7: colour: there is no such key",
            "MAGPIE_PARTITIONS: \"many\": expected a whole number from 0 to 65535",
            "MAGPIE_LOG_FORMAT: \"xml\": expected one of text, json",
            "MAGPIE_SESION__X: there is no such key",
            "--replication-factor: -1: expected a whole number from 0 to 255",
        ],
    );
}

#[test]
fn broken_syntax_is_told_with_its_lines() {
    let (directory, layers) = layers(
        "partitions = \nlog_level = \"info\nnode_name = \"a\"",
        &[],
        &[],
    );
    let problems = settings(&layers).unwrap_err().to_string();
    let lines: Vec<_> = problems
        .lines()
        .map(|line| line.split(": ").next().unwrap())
        .collect();
    let file = directory.path().join("magpie.toml").display().to_string();
    assert_eq!(lines[..2], [format!("{file}:1"), format!("{file}:2")]);
}

#[test]
fn a_file_that_is_not_there_is_a_problem() {
    let layers = Layers {
        file: Some("/nowhere/magpie.toml".into()),
        ..Layers::default()
    };
    let problems = settings(&layers).unwrap_err().to_string();
    assert!(
        problems.starts_with("/nowhere/magpie.toml: cannot be read: "),
        "{problems}"
    );
}

#[test]
fn what_others_put_into_the_environment_is_no_mistake() {
    let variables = [
        ("PATH", "/bin"),
        ("MAGPIE_CLUSTER_SECRET", "s"),
        ("MAGPIE_SERVICE_HOST", "10.0.0.1"),
        ("MAGPIE_PORT", "tcp://10.0.0.1:1883"),
        ("MAGPIE_PORT_1883_TCP_ADDR", "10.0.0.1"),
        ("MAGPIE_HEADLESS_SERVICE_PORT", "1883"),
    ];
    check("", &variables, &[], &[]);
}
