//! One node whose power is cut again and again, with log and checkpoints on simulated disks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use magpie_state::{ClusterId, Incarnation, NodeId};
use magpie_storage::{Log, MemoryStore, Options, SimulatedDisk};

use super::harness::{GROUP, SOON, Tally, quick};
use crate::raft::{Config, GroupParts, RaftGroup, Registry};
use crate::rpc::{Channels, Directory, Identity, Secret};

/// Proposes `count` commands and waits for them, and then some without waiting. Returns how many were acknowledged in all lives.
async fn life(log: Log, store: MemoryStore, from: u64, count: u64) -> u64 {
    let identity = Identity::new(NodeId(1), Incarnation::default(), Secret::new(b""));
    identity.join(ClusterId(1));
    let parts = GroupParts::<Tally> {
        group: GROUP,
        node: NodeId(1),
        log,
        store: Arc::new(store),
        channels: Channels::new(identity, Directory::default()),
        registry: Registry::default(),
        config: Config {
            checkpoint_bytes: 2000,
            log_retain_bytes: 0,
            retention_every: Duration::from_millis(1),
            // Alone, and elected anew in each of many lives.
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            ..quick()
        },
        observer: Arc::new(()),
        hold: Arc::new(AtomicU64::new(u64::MAX)),
    };
    let group = RaftGroup::start(parts).await.unwrap();
    group
        .initialize(&BTreeSet::from([NodeId(1)]))
        .await
        .unwrap();
    let mut leadership = group.watch_leadership();
    leadership.wait_for(|now| now.is_here).await.unwrap();
    group.wait_recovered(SOON).await.unwrap();
    // Every command is a key of its own, so that one applied twice shows in the count.
    let found = group.with_state(|tally| {
        assert_eq!(tally.values.len() as u64, tally.count);
        tally.count
    });
    assert!(found >= from, "{from} were acknowledged, {found} are there");
    for n in 0..count {
        group
            .propose(format!("{found}-{n}=v").into())
            .await
            .unwrap();
    }
    for n in 0..5 {
        group
            .submit(format!("{found}-late-{n}=v").into(), |_| {})
            .await;
    }
    found + count
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_applied_twice() {
    let mut disk = SimulatedDisk::new(64 << 20);
    let store = MemoryStore::default();
    let mut acknowledged = 0;
    for round in 0..20u64 {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let options = Options {
            segment_bytes: 1 << 16,
            ..Options::default()
        };
        let (log, _) = Log::open("/log", options, disk.clone()).unwrap();
        acknowledged = runtime.block_on(async {
            let life = life(log, store.clone(), acknowledged, 20 + round * 7 % 60);
            tokio::time::timeout(SOON, life).await.unwrap()
        });
        // The power goes while the late proposals are under way. What a checkpoint may still add can only be of entries that were
        // durable by then, since nothing is committed any more.
        disk = disk.power_loss(round);
        runtime.shutdown_timeout(SOON);
        store.power_loss(usize::try_from(round % 4).unwrap());
    }
}
