//! What `magpie dev` tells the person in front of it.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use super::child::Ended;
use super::home::Home;
use super::paint::Paint;
use super::plan::Plan;

pub(super) fn beginning(plan: &Plan, home: &Home, paint: Paint) -> String {
    let nodes = match plan.nodes.len() {
        1 => "one node".to_owned(),
        count => format!("a cluster of {count} nodes"),
    };
    let what = paint.bold(&format!("Starting {nodes} on this machine."));
    let data = home.path().display();
    let fate = match home.is_temporary() {
        true => "(goes when this ends; keep it with --data-dir DIR)",
        false => "(stays)",
    };
    let pair = match plan.nodes.len() {
        2 => "\nTwo nodes need each other: while one is away, the other serves nobody.",
        _ => "",
    };
    format!("{what}\nData: {data} {fate}{pair}")
}

/// `victim` is the last node's process.
pub(super) fn ready(plan: &Plan, victim: Option<u32>, took: Duration, paint: Paint) -> String {
    let head = match plan.nodes.len() {
        1 => "The node is ready".to_owned(),
        count => format!("All {count} nodes are ready"),
    };
    let (first, last) = (&plan.nodes[0], &plan.nodes[plan.nodes.len() - 1]);
    let mut text = format!(
        "\n{}\n\n",
        paint.good(&format!("{head} after {:.1} s.", took.as_secs_f64()))
    );
    for (number, node) in plan.nodes.iter().enumerate() {
        let name = paint.node(number, &node.name);
        text += &format!(
            "  {name}  MQTT {}   dashboard http://{}/\n",
            node.mqtt, node.http
        );
    }
    let sub = format!("magpie sub -p {} -t 'hello/#' -q 1 -v", first.mqtt_port);
    let publish = format!(
        "magpie pub -p {} -t hello/world -q 1 -m 'good morning'",
        last.mqtt_port
    );
    let between = match plan.nodes.len() {
        1 => "Subscribe in one terminal, publish in another",
        _ => "Subscribe on one node, publish on another",
    };
    text += &format!(
        "\n{between}; mosquitto_sub and mosquitto_pub take the same options:\n\n  {}\n  {}\n",
        paint.bold(&sub),
        paint.bold(&publish)
    );
    text += &format!(
        "\nLook around:\n\n  {}\n",
        paint.bold(&format!("magpie ctl status --http {}", first.http))
    );
    if let (3.., Some(victim)) = (plan.nodes.len(), victim) {
        let kill = paint.bold(&format!("kill -9 {victim}"));
        text += &format!("  {kill}   to see the others go on without {}\n", last.name);
    }
    text += "\nCtrl-C stops everything.\n";
    text
}

pub(super) fn waiting(nodes: &[(String, String)], paint: Paint) -> String {
    let mut text = paint.bold("Still waiting:");
    for (name, why) in nodes {
        text += &format!("\n  {name}: {why}");
    }
    text
}

/// A node ended that nobody stopped.
pub(super) fn gone(ended: &Ended, plan: &Plan, running: usize, paint: Paint) -> String {
    let how = match &ended.status {
        Err(error) => format!("is lost: {error}"),
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "ended".to_owned(),
        },
    };
    let mut text = format!("\n{}", paint.bad(&format!("{} {how}.", ended.name)));
    let node = plan.nodes.iter().find(|node| node.name == ended.name);
    if let (Some(node), 1..) = (node, running) {
        let rest = match running {
            1 => "1 node goes".to_owned(),
            count => format!("{count} nodes go"),
        };
        text += &format!(
            " {rest} on. To start it again, in another terminal:\n\n  {}\n",
            node.command_line()
        );
    }
    text
}

pub(super) fn stopping(paint: Paint) -> String {
    format!("\n{}", paint.bold("Stopping; Ctrl-C once more kills."))
}

pub(super) fn end(home: &Home, paint: Paint) -> String {
    let data = match home.is_temporary() {
        true => String::new(),
        false => format!(" The data is in {}.", home.path().display()),
    };
    format!("{}{data}", paint.bold("All nodes have stopped."))
}
