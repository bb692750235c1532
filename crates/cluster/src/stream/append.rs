//! A batch of a stream becomes a command.

use magpie_failpoint::fail_point;
use magpie_state::StreamId;
use magpie_state::partition::{Append, PartitionAnswer, PartitionCommand, PartitionState};

use crate::proto;
use crate::raft::{ProposeError, RaftGroup};

/// Proposes a batch of `stream` on the leader.
pub(crate) async fn propose_append(
    group: &RaftGroup<PartitionState>,
    stream: StreamId,
    batch: proto::AppendBatch,
    done: impl FnOnce(Result<(u64, PartitionAnswer), ProposeError>) + Send + 'static,
) {
    let proto::AppendBatch {
        seq,
        count,
        has_control,
        records,
        ..
    } = batch;
    fail_point!("leader.taken", [&records]);
    let append = Append {
        stream,
        seq,
        has_control,
        count,
        records,
    };
    group
        .submit(PartitionCommand::Append(append).encode(), done)
        .await;
}
