//! The commands of the control group and their bytes.
//!
//! Rare commands are JSON, so that a log can be read by eye; changes of routes, of which there are millions, are binary.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use magpie_access::{Change, Changed};
use magpie_codec::TopicFilter;
use serde::{Deserialize, Serialize};

use super::member::{Member, Settings};

use crate::wire::{put_stream, put_text, read_filter, read_stream, read_u8, read_u32};
use crate::{ClusterId, DecodeError, Incarnation, NodeId, PartitionId, StreamId};

/// A command of the control group's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlCommand {
    /// The first command of a cluster.
    Form {
        /// Its name, drawn by the node that forms it.
        cluster: ClusterId,
        /// What stays fixed, mostly.
        settings: Settings,
        /// The founding members.
        members: Vec<Member>,
    },
    /// A node wants to be a member.
    Join {
        /// The newcomer.
        member: Member,
        /// The member that is down, has the same address, and whose place it takes.
        replaces: Option<NodeId>,
    },
    /// A member has started.
    Announce {
        /// The member in its new life.
        member: Member,
        /// The life before, as its data directory says; counter 0 if there was none.
        previous: Incarnation,
    },
    /// A member's life is over.
    Down {
        /// Who.
        node: NodeId,
        /// Which life; a newer one is not touched.
        incarnation: Incarnation,
    },
    /// A member that is down leaves for good.
    Remove {
        /// Who.
        node: NodeId,
    },
    /// Where a partition's replicas are to be.
    Place {
        /// Which.
        partition: PartitionId,
        /// The preferred leader first.
        replicas: Vec<NodeId>,
    },
    /// Partitions that have had a leader: nobody may found them any more.
    Founded {
        /// Which.
        partitions: Vec<PartitionId>,
    },
    /// The first or the last online subscriber of some filters on a node.
    Routes {
        /// The node.
        node: NodeId,
        /// Its life; of another life than the present one nothing is taken.
        incarnation: Incarnation,
        /// The changes, in order.
        changes: Vec<RouteChange>,
    },
    /// Replace the list of direct filters.
    SetDirect {
        /// Topic filters.
        filters: Vec<String>,
    },
    /// Change users, rules or bans.
    Access(Change),
}

/// How many online subscribers a node now has for a filter: 1 stands for any number of plain ones, share groups count their members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteChange {
    /// Filter, `$share/...` included.
    pub filter: TopicFilter,
    /// 0: none left.
    pub members: u32,
}

/// Answer to a control command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlAnswer {
    /// Done, or done before.
    Done,
    /// Nothing changed, for a reason that the operator may read.
    Refused(String),
    /// The node's data directory was restored or copied: a newer life has announced itself.
    Fenced {
        /// That life.
        newest: Incarnation,
    },
    /// This life of the node was declared down; it has to take a new one.
    Down,
    /// This identity left the cluster, and can never come back.
    Left,
    /// Of the route changes those with these ordinals (0-based, ascending) do not fit into the table; the others are done.
    RoutesRefused {
        /// Never empty.
        ordinals: Vec<u32>,
    },
    /// What came of a change of users, rules or bans.
    Access(Changed),
}

/// The commands that are JSON in the log.
#[derive(Serialize, Deserialize)]
enum Rare {
    Form {
        cluster: ClusterId,
        settings: Settings,
        members: Vec<Member>,
    },
    Join {
        member: Member,
        replaces: Option<NodeId>,
    },
    Announce {
        member: Member,
        previous: Incarnation,
    },
    Down {
        node: NodeId,
        incarnation: Incarnation,
    },
    Remove {
        node: NodeId,
    },
    Place {
        partition: PartitionId,
        replicas: Vec<NodeId>,
    },
    Founded {
        partitions: Vec<PartitionId>,
    },
    SetDirect {
        filters: Vec<String>,
    },
    Access(Change),
}

const RARE: u8 = 1;
const ROUTES: u8 = 2;

impl ControlCommand {
    /// The command's bytes, as they stand in the log.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        let rare = match self.clone() {
            Self::Routes {
                node,
                incarnation,
                changes,
            } => {
                out.put_u8(ROUTES);
                put_stream(&mut out, StreamId { node, incarnation });
                out.put_u32_le(u32::try_from(changes.len()).expect("bounded by the batch"));
                for RouteChange { filter, members } in &changes {
                    put_text(&mut out, filter.as_str());
                    out.put_u32_le(*members);
                }
                return out.freeze();
            }
            Self::Form {
                cluster,
                settings,
                members,
            } => Rare::Form {
                cluster,
                settings,
                members,
            },
            Self::Join { member, replaces } => Rare::Join { member, replaces },
            Self::Announce { member, previous } => Rare::Announce { member, previous },
            Self::Down { node, incarnation } => Rare::Down { node, incarnation },
            Self::Remove { node } => Rare::Remove { node },
            Self::Place {
                partition,
                replicas,
            } => Rare::Place {
                partition,
                replicas,
            },
            Self::Founded { partitions } => Rare::Founded { partitions },
            Self::SetDirect { filters } => Rare::SetDirect { filters },
            Self::Access(change) => Rare::Access(change),
        };
        out.put_u8(RARE);
        serde_json::to_writer((&mut out).writer(), &rare)
            .expect("plain data always has a JSON form");
        out.freeze()
    }

    /// The reverse of [`encode`](Self::encode).
    ///
    /// # Errors
    /// Bytes that no version up to this one writes.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let buf = &mut bytes.clone();
        match read_u8(buf, "command kind")? {
            RARE => {
                let rare: Result<Rare, _> = serde_json::from_slice(buf.chunk());
                Ok(Self::from(rare.map_err(|_| {
                    DecodeError::new("control command", "not of this version")
                })?))
            }
            ROUTES => {
                let StreamId { node, incarnation } = read_stream(buf, "node")?;
                let mut changes = Vec::new();
                for _ in 0..read_u32(buf, "route changes")? {
                    let filter = read_filter(buf, "route")?;
                    changes.push(RouteChange {
                        filter,
                        members: read_u32(buf, "route members")?,
                    });
                }
                Ok(Self::Routes {
                    node,
                    incarnation,
                    changes,
                })
            }
            _ => Err(DecodeError::new("command kind", "unknown")),
        }
    }
}

impl From<Rare> for ControlCommand {
    fn from(rare: Rare) -> Self {
        match rare {
            Rare::Form {
                cluster,
                settings,
                members,
            } => Self::Form {
                cluster,
                settings,
                members,
            },
            Rare::Join { member, replaces } => Self::Join { member, replaces },
            Rare::Announce { member, previous } => Self::Announce { member, previous },
            Rare::Down { node, incarnation } => Self::Down { node, incarnation },
            Rare::Remove { node } => Self::Remove { node },
            Rare::Place {
                partition,
                replicas,
            } => Self::Place {
                partition,
                replicas,
            },
            Rare::Founded { partitions } => Self::Founded { partitions },
            Rare::SetDirect { filters } => Self::SetDirect { filters },
            Rare::Access(change) => Self::Access(change),
        }
    }
}
