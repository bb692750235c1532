//! A disk that fails.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use magpie_state::{ClusterId, Incarnation, NodeId};
use magpie_storage::{Log, MemoryStore, Options, SimulatedDisk};

use super::harness::{GROUP, SOON, Tally, quick};
use crate::raft::{GroupParts, ProposeError, RaftGroup, Registry};
use crate::rpc::{Channels, Directory, Identity, Secret};

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_ends_the_group_and_promises_nothing() {
    let disk = SimulatedDisk::new(64 << 20);
    let options = Options {
        segment_bytes: 1 << 20,
        ..Options::default()
    };
    let (log, _) = Log::open("/log", options, disk.clone()).unwrap();
    let identity = Identity::new(NodeId(1), Incarnation::default(), Secret::new(b""));
    identity.join(ClusterId(1));
    let parts = GroupParts::<Tally> {
        group: GROUP,
        node: NodeId(1),
        log,
        store: Arc::new(MemoryStore::default()),
        channels: Channels::new(identity, Directory::default()),
        registry: Registry::default(),
        config: quick(),
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
    group.propose("a=1".into()).await.unwrap();
    disk.fail_next_syncs();
    let outcome = tokio::time::timeout(SOON, group.propose("b=2".into())).await;
    assert_eq!(outcome.unwrap(), Err(ProposeError::Unknown));
    assert_eq!(group.with_state(|tally| tally.count), 1);
    let mut fatal = group.fatal();
    let told = tokio::time::timeout(SOON, fatal.wait_for(Option::is_some)).await;
    assert!(told.unwrap().unwrap().is_some());
    assert!(!group.is_leader());
    group.stop().await;
}
