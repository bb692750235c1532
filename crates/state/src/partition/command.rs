//! The commands of a partition and their bytes.

use bytes::{BufMut, Bytes, BytesMut};
use magpie_codec::QoS;

use super::append::Append;
use super::limits::PartitionLimits;
use super::sessions::Loss;
use crate::record::{put_lost_topics, read_lost_topics, read_membership, read_position};
use crate::wire::{
    put_count, put_stream, read_epoch, read_list, read_qos, read_stream, read_u8, read_u16,
    read_u32, read_u64,
};
use crate::{
    DecodeError, Epoch, LostTopic, MembershipId, PartitionId, Position, ShareGroupId, StreamId,
};

/// A command of a partition's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionCommand {
    /// A batch of records of one stream.
    Append(Append),
    /// A life of a node was declared ended. Ends a bounded number of connections: to be repeated while the life is one of the
    /// [holders](super::PartitionState::holders).
    EndStream {
        /// Which.
        stream: StreamId,
    },
    /// Log entries below an index are purged everywhere; what readers must skip below it need not be remembered.
    ForgetSkipped {
        /// First index that may still be read.
        below: u64,
    },
    /// Which partition this is, of how many. Proposed by a leader while the state [does not know](super::PartitionState::configured); only
    /// the first one counts.
    Configure {
        /// This one.
        partition: PartitionId,
        /// All of the cluster.
        partitions: u16,
    },
    /// What this partition takes at most, from now on. Proposed by a leader whose configuration says so while the state
    /// [knows](super::PartitionState::limits) something else.
    Limit(PartitionLimits),
    /// Too much waits for some Sessions that are stored here.
    LoseWaiting {
        /// One per Session.
        losses: Vec<Loss>,
    },
    /// Time passed, by a leader's monotonic clock. Proposed about once a second while the state [has timers](super::PartitionState::has_timers).
    Tick {
        /// Since the leader's last tick; more than [`TICK_MS_MAX`](super::TICK_MS_MAX) counts as that.
        elapsed_ms: u32,
    },
    /// Batches of the outbox are committed where they were to go.
    OutboxDone {
        /// Where.
        target: PartitionId,
        /// Up to and including this sequence number.
        upto: u64,
    },
    /// What of the log up to an index is still needed. Replicas copy it into rows; then the log may be purged up to there.
    Trim {
        /// Index, inclusive.
        upto: u64,
        /// Needed messages, ascending, all at or below `upto` and above what was trimmed before.
        keep: Vec<Position>,
    },
    /// A limit: every message up to a place goes, needed or not.
    Lose {
        /// Inclusive.
        upto: Position,
        /// What of that is told to the Sessions.
        told: Vec<LostTopic>,
    },
    /// A limit: these kept messages go, needed or not.
    LoseAt {
        /// Which.
        positions: Vec<Position>,
        /// What of that is told to the Sessions.
        told: Vec<LostTopic>,
    },
    /// Kept messages that nobody needs any more.
    Forget {
        /// Which.
        positions: Vec<Position>,
    },
    /// Members of share groups get messages that are in the log. What another deal or the members' going has overtaken does not count.
    Deal {
        /// By group.
        deals: Vec<GroupDeals>,
    },
    /// Memberships that their Sessions know nothing of, and nobody will end: those that no connection has, and that were joined last under
    /// that epoch.
    DropShares {
        /// Which.
        memberships: Vec<(MembershipId, Epoch)>,
    },
}

/// Messages of one share group that are dealt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDeals {
    /// Which group.
    pub group: ShareGroupId,
    /// Every message of the group up to here is dealt, with these: those between where it was before and here that are not among them are
    /// not the group's.
    pub upto: Position,
    /// Messages above where the group was, and such as were returned to it.
    pub deals: Vec<Deal>,
}

/// A message for a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deal {
    /// Which message.
    pub position: Position,
    /// Who gets it.
    pub member: MembershipId,
    /// QoS of its PUBLISH.
    pub qos: QoS,
}

const APPEND: u8 = 1;
const END_STREAM: u8 = 2;
const FORGET_SKIPPED: u8 = 3;
const CONFIGURE: u8 = 4;
const TICK: u8 = 5;
const OUTBOX_DONE: u8 = 6;
const TRIM: u8 = 7;
const FORGET: u8 = 8;
const LOSE: u8 = 9;
const LIMIT: u8 = 20;
const LOSE_WAITING: u8 = 21;
const DEAL: u8 = 10;
const DROP_SHARES: u8 = 11;
const LOSE_AT: u8 = 22;

impl PartitionCommand {
    /// The command's bytes, as they stand in the log.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Append(append) => {
                out.reserve(append.records.len() + 64);
                out.put_u8(APPEND);
                append.encode(&mut out);
            }
            Self::EndStream { stream } => {
                out.put_u8(END_STREAM);
                put_stream(&mut out, *stream);
            }
            Self::ForgetSkipped { below } => {
                out.put_u8(FORGET_SKIPPED);
                out.put_u64_le(*below);
            }
            Self::Configure {
                partition,
                partitions,
            } => {
                out.put_u8(CONFIGURE);
                out.put_u16_le(partition.0);
                out.put_u16_le(*partitions);
            }
            Self::Limit(limits) => {
                out.put_u8(LIMIT);
                limits.encode(&mut out);
            }
            Self::LoseWaiting { losses } => {
                out.put_u8(LOSE_WAITING);
                put_count(&mut out, losses.len());
                losses.iter().for_each(|loss| loss.encode(&mut out));
            }
            Self::Tick { elapsed_ms } => {
                out.put_u8(TICK);
                out.put_u32_le(*elapsed_ms);
            }
            Self::OutboxDone { target, upto } => {
                out.put_u8(OUTBOX_DONE);
                out.put_u16_le(target.0);
                out.put_u64_le(*upto);
            }
            Self::Trim { upto, keep } => {
                out.put_u8(TRIM);
                out.put_u64_le(*upto);
                put_positions(&mut out, keep);
            }
            Self::Lose { upto, told } => {
                out.put_u8(LOSE);
                out.put_u64_le(upto.0);
                put_lost_topics(&mut out, told);
            }
            Self::LoseAt { positions, told } => {
                out.put_u8(LOSE_AT);
                put_positions(&mut out, positions);
                put_lost_topics(&mut out, told);
            }
            Self::Forget { positions } => {
                out.put_u8(FORGET);
                put_positions(&mut out, positions);
            }
            Self::Deal { deals } => {
                out.put_u8(DEAL);
                put_count(&mut out, deals.len());
                for group in deals {
                    put_deals(&mut out, group);
                }
            }
            Self::DropShares { memberships } => {
                out.put_u8(DROP_SHARES);
                put_count(&mut out, memberships.len());
                for (membership, epoch) in memberships {
                    out.put_u64_le(membership.0.0);
                    out.put_u64_le(epoch.0);
                }
            }
        }
        out.freeze()
    }

    /// The reverse of [`encode`](Self::encode); a batch's records are a slice of `bytes`.
    ///
    /// # Errors
    /// Bytes that no version up to this one writes.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let buf = &mut bytes.clone();
        Ok(match read_u8(buf, "command kind")? {
            APPEND => Self::Append(Append::decode(buf)?),
            END_STREAM => Self::EndStream {
                stream: read_stream(buf, "stream")?,
            },
            FORGET_SKIPPED => Self::ForgetSkipped {
                below: read_u64(buf, "index")?,
            },
            CONFIGURE => Self::Configure {
                partition: PartitionId(read_u16(buf, "partition")?),
                partitions: match read_u16(buf, "partitions")? {
                    0 => return Err(DecodeError::new("partitions", "zero")),
                    partitions => partitions,
                },
            },
            LIMIT => Self::Limit(PartitionLimits::decode(buf)?),
            LOSE_WAITING => Self::LoseWaiting {
                losses: read_list(buf, "losses", Loss::decode)?,
            },
            TICK => Self::Tick {
                elapsed_ms: read_u32(buf, "elapsed time")?,
            },
            OUTBOX_DONE => Self::OutboxDone {
                target: PartitionId(read_u16(buf, "partition")?),
                upto: read_u64(buf, "sequence number")?,
            },
            TRIM => Self::Trim {
                upto: read_u64(buf, "index")?,
                keep: read_positions(buf)?,
            },
            LOSE => Self::Lose {
                upto: Position(read_u64(buf, "position")?),
                told: read_lost_topics(buf)?,
            },
            LOSE_AT => Self::LoseAt {
                positions: read_positions(buf)?,
                told: read_lost_topics(buf)?,
            },
            FORGET => Self::Forget {
                positions: read_positions(buf)?,
            },
            DEAL => Self::Deal {
                deals: read_list(buf, "deals", read_deals)?,
            },
            DROP_SHARES => Self::DropShares {
                memberships: read_list(buf, "memberships", |buf| {
                    Ok((read_membership(buf)?, read_epoch(buf)?))
                })?,
            },
            _ => return Err(DecodeError::new("command kind", "unknown")),
        })
    }
}

fn put_deals(out: &mut BytesMut, group: &GroupDeals) {
    out.put_u64_le(group.group.0.0);
    out.put_u64_le(group.upto.0);
    put_count(out, group.deals.len());
    for deal in &group.deals {
        out.put_u64_le(deal.position.0);
        out.put_u64_le(deal.member.0.0);
        out.put_u8(deal.qos as u8);
    }
}

fn read_deals(buf: &mut Bytes) -> Result<GroupDeals, DecodeError> {
    Ok(GroupDeals {
        group: ShareGroupId(read_position(buf)?),
        upto: read_position(buf)?,
        deals: read_list(buf, "deals", |buf| {
            Ok(Deal {
                position: read_position(buf)?,
                member: read_membership(buf)?,
                qos: read_qos(buf, "deal")?,
            })
        })?,
    })
}

fn put_positions(out: &mut BytesMut, positions: &[Position]) {
    put_count(out, positions.len());
    for position in positions {
        out.put_u64_le(position.0);
    }
}

fn read_positions(buf: &mut Bytes) -> Result<Vec<Position>, DecodeError> {
    read_list(buf, "positions", |buf| {
        read_u64(buf, "position").map(Position)
    })
}
