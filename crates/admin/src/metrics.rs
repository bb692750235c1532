//! `/metrics`: what all crates count, what the cluster says of its groups, and what the process uses.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use magpie_cluster::{LogStatus, Readiness, Status};
use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::state::SharedState;

mod process;

/// How often histograms are condensed, so that they do not grow between scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Bounds of histogram buckets, for durations in seconds: from a write to a good disk to a wait that ends in a timeout.
const SECONDS: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 10.0,
];

/// Everything else that has a distribution: counts and bytes, in powers of four.
const COUNTS: [f64; 10] = [
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0,
];

/// Why metrics cannot be collected.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be collected: {0}")]
pub struct MetricsError(#[from] BuildError);

/// What is counted in this process.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Becomes the recorder of the process. Must come before anything counts.
    ///
    /// # Errors
    /// If there is a recorder already.
    pub fn install() -> Result<Self, MetricsError> {
        let handle = PrometheusBuilder::new()
            .set_buckets(&COUNTS)?
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
            .install_recorder()?;
        describe();
        Ok(Self(handle))
    }

    /// For tests: of nothing.
    #[cfg(test)]
    pub(crate) fn unused() -> Self {
        Self(PrometheusBuilder::new().build_recorder().handle())
    }
}

/// In the text format of Prometheus.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge needs no more than 52 bits"
)]
pub(crate) async fn scrape(
    State(state): State<SharedState>,
) -> ([(HeaderName, &'static str); 1], String) {
    gauge!("magpie_ready").set(f64::from(state.readiness() == Readiness::Ready));
    if let Some(cluster) = state.cluster() {
        report(&cluster.status());
        let policy = cluster.policy().borrow().clone();
        let tables = policy.tables();
        gauge!("magpie_users").set(tables.user_count() as f64);
        gauge!("magpie_acl_rules").set(tables.rules().len() as f64);
        gauge!("magpie_bans").set(tables.ban_count() as f64);
        gauge!("magpie_access_revision").set(tables.revision() as f64);
        for (node, depth) in cluster.link_depths() {
            gauge!("magpie_link_queued_messages", "node" => node.to_string()).set(depth as f64);
        }
    }
    process::report();
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4")],
        state.metrics.0.render(),
    )
}

/// Keeps the histograms small, for ever.
pub(crate) async fn observe(state: SharedState) {
    let mut ticks = tokio::time::interval(UPKEEP_EVERY);
    loop {
        ticks.tick().await;
        state.metrics.0.run_upkeep();
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge needs no more than 52 bits"
)]
fn report(status: &Status) {
    for state in ["up", "down"] {
        let members = status
            .members
            .iter()
            .filter(|member| member.state == state)
            .count();
        gauge!("magpie_members", "state" => state).set(members as f64);
    }
    gauge!("magpie_routes").set(status.routes as f64);
    report_log(&status.log);
    for group in &status.groups {
        let name = Arc::<str>::from(group.group.as_str());
        let set = |metric: &'static str, value: u64| {
            gauge!(metric, "group" => Arc::clone(&name)).set(value as f64);
        };
        set("magpie_raft_term", group.term);
        set("magpie_raft_leading", u64::from(group.leading));
        set("magpie_raft_has_leader", u64::from(group.leader.is_some()));
        set(
            "magpie_raft_commit_lag_entries",
            group.last_log.saturating_sub(group.committed),
        );
        set(
            "magpie_raft_apply_lag_entries",
            group.committed.saturating_sub(group.applied),
        );
        counter!("magpie_raft_committed_entries_total", "group" => Arc::clone(&name))
            .absolute(group.committed);
        if let Some(holds) = &group.holds {
            // Of the leader, so that a sum over the nodes is the cluster's.
            let led = |count: usize| if group.leading { count as f64 } else { 0.0 };
            for (state, count) in [
                ("attached", holds.sessions_attached),
                ("detached", holds.sessions_detached),
            ] {
                gauge!("magpie_sessions", "group" => Arc::clone(&name), "state" => state)
                    .set(led(count));
            }
            gauge!("magpie_sessions_max", "group" => Arc::clone(&name)).set(
                match holds.sessions_max {
                    Some(max) if group.leading => max as f64,
                    _ => 0.0,
                },
            );
            counter!("magpie_session_entries_cut_total", "group" => Arc::clone(&name))
                .absolute(holds.entries_cut);
            gauge!("magpie_retained_messages", "group" => Arc::clone(&name))
                .set(led(holds.retained));
            gauge!("magpie_retained_bytes", "group" => Arc::clone(&name)).set(if group.leading {
                holds.retained_bytes as f64
            } else {
                0.0
            });
            counter!("magpie_retained_not_kept_total", "group" => Arc::clone(&name))
                .absolute(holds.retained_not_kept);
            gauge!("magpie_outbox_bytes", "group" => Arc::clone(&name)).set(if group.leading {
                holds.outbox_bytes as f64
            } else {
                0.0
            });
            gauge!("magpie_outbox_batches", "group" => Arc::clone(&name)).set(led(holds.outbox));
        }
        if let Some(tail) = group.tail {
            set(
                "magpie_tail_lag_entries",
                group.applied.saturating_sub(tail),
            );
        }
    }
}

/// The form of a Prometheus histogram, from counts that the log has made already.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge needs no more than 52 bits"
)]
fn report_log(log: &LogStatus) {
    for (within_s, count) in &log.fsyncs_within_s {
        counter!("magpie_log_fsync_seconds_bucket", "le" => within_s.to_string()).absolute(*count);
    }
    counter!("magpie_log_fsync_seconds_bucket", "le" => "+Inf").absolute(log.fsyncs);
    counter!("magpie_log_fsync_seconds_count").absolute(log.fsyncs);
    gauge!("magpie_log_fsync_seconds_sum").set(log.fsyncs_s);
    counter!("magpie_log_written_bytes_total").absolute(log.written_bytes);
    gauge!("magpie_log_segments").set(log.segments as f64);
    for space in ["ok", "soft", "hard"] {
        let is_it = f64::from(u8::from(log.space == space));
        gauge!("magpie_log_space", "state" => space).set(is_it);
    }
}

fn describe() {
    describe_counter!(
        "magpie_log_fsync_seconds_bucket",
        "Syncs of the log that took at most `le` seconds"
    );
    describe_gauge!(
        "magpie_log_space",
        "1 for the state of the disk: ok, soft (publishes are refused) or hard (not ready)"
    );
    describe_gauge!(
        "magpie_ready",
        "1 while the node may accept clients, as /readyz says"
    );
    describe_gauge!("magpie_members", "Nodes of the cluster by state");
    describe_gauge!("magpie_users", "Users of the cluster");
    describe_gauge!("magpie_acl_rules", "Access rules of the cluster");
    describe_gauge!(
        "magpie_bans",
        "Bans of the cluster; those that are over count until the next ban is set or taken away"
    );
    describe_gauge!(
        "magpie_access_revision",
        "How many changes of users, rules and bans this node goes by; the same on all nodes"
    );
    describe_counter!(
        "magpie_access_refused_total",
        "Refusals by this node: to connect, publish, subscribe, leave a will, stay, use the API"
    );
    describe_counter!(
        "magpie_auth_http_errors_total",
        "Clients that were refused because the web service that knows them gave no answer"
    );
    describe_counter!(
        "magpie_auth_jwks_errors_total",
        "Times that the set of keys for tokens could not be read; the keys from before stay"
    );
    describe_counter!(
        "magpie_audit_lost_total",
        "Lines that the audit log does not have, because it was not written fast enough or at all"
    );
    describe_gauge!("magpie_routes", "Rows in the table of direct routes");
    describe_gauge!("magpie_raft_term", "Term of a group, as this node knows it");
    describe_gauge!("magpie_raft_leading", "1 if this node leads the group");
    describe_gauge!(
        "magpie_raft_has_leader",
        "1 if this node knows a leader of the group"
    );
    describe_gauge!(
        "magpie_raft_commit_lag_entries",
        "Entries in this node's log that are not committed"
    );
    describe_gauge!(
        "magpie_raft_apply_lag_entries",
        "Committed entries that this node has not applied"
    );
    describe_gauge!(
        "magpie_tail_lag_entries",
        "Applied entries that this node's subscribers were not given"
    );
    describe_gauge!(
        "magpie_sessions",
        "Sessions of a partition that this node leads, with a connection (attached) or waiting for their client (detached)"
    );
    describe_gauge!(
        "magpie_sessions_max",
        "Sessions that a partition which this node leads stores at most: its share of cluster.sessions_max"
    );
    describe_counter!(
        "magpie_sessions_refused_total",
        "CONNECTs to this node that would have begun one session more than cluster.sessions_max"
    );
    describe_counter!(
        "magpie_user_sessions_refused_total",
        "CONNECTs to this node that would have given their user more sessions than cluster.user_sessions_max"
    );
    describe_counter!(
        "magpie_messages_lost_total",
        "Messages that a partition which this node leads kept for sessions, and that a limit removed: room (message_hold_bytes), age or bytes"
    );
    describe_counter!(
        "magpie_sessions_cut_total",
        "Times that more waited for a session than session_bytes_max, and its oldest messages were lost to it"
    );
    describe_counter!(
        "magpie_session_messages_lost_total",
        "Messages that limits took from sessions that waited for them, each counted for each session"
    );
    describe_counter!(
        "magpie_session_entries_cut_total",
        "Positions and packet ids that were not stored with a session, because no correct node writes so many; should be 0"
    );
    describe_gauge!(
        "magpie_retained_messages",
        "Retained messages of a partition that this node leads"
    );
    describe_gauge!(
        "magpie_retained_bytes",
        "Bytes of the retained messages of a partition that this node leads"
    );
    describe_counter!(
        "magpie_retained_not_kept_total",
        "Messages that this node's replica of a partition did not retain for want of room: retained_max, retained_bytes_max"
    );
    describe_gauge!(
        "magpie_outbox_batches",
        "What a partition that this node leads wants of others and has not been taken: wills, ends of sessions"
    );
    describe_gauge!(
        "magpie_outbox_bytes",
        "Bytes of that, at most cluster.outbox_bytes_max and one command more"
    );
    describe_counter!(
        "magpie_session_progress_total",
        "Reports of how far the sessions of this node have got"
    );
    describe_counter!(
        "magpie_takeovers_total",
        "Connections here that replaced an older one: told how far it had got (handed_over), only that it is gone (confirmed), or neither (fenced)"
    );
    describe_counter!(
        "magpie_routes_refused_total",
        "Filters of this node that the cluster's table of routes has no room for"
    );
    describe_counter!(
        "magpie_raft_committed_entries_total",
        "Index of the last entry known to be committed"
    );
    describe_counter!(
        "magpie_http_refused_total",
        "HTTP connections closed because there were too many"
    );
    process::describe();
}
