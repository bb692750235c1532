//! The library's own tests of a store, on our log and driver.

use std::sync::Arc;

use magpie_storage::{GroupId, Log, MemoryStore, Options, RealDisk};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::harness::Tally;
use crate::raft::driver::Driver;
use crate::raft::entry::Types;
use crate::raft::log_store::LogStore;

struct Builder;

impl StoreBuilder<Types, LogStore, Driver<Tally>, tempfile::TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore, Driver<Tally>), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            segment_bytes: 1 << 16,
            spare_segments: 0,
            ..Options::default()
        };
        let (log, _) = Log::open(dir.path(), options, RealDisk).unwrap();
        let group = GroupId(3);
        let store = LogStore::new(log, group, 1 << 20);
        let rows = Arc::new(MemoryStore::default());
        let driver = Driver::open(rows, group, store.clone(), Arc::new(())).unwrap();
        Ok((dir, store, driver))
    }
}

#[test]
fn the_librarys_suite_passes() {
    tokio::runtime::Runtime::new()
        .unwrap()
        .block_on(Suite::test_all(Builder))
        .unwrap();
}
