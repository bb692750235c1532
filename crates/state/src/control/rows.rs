//! The control state as rows of a checkpoint or snapshot.

use bytes::{BufMut, Bytes};
use magpie_access::Key;
use magpie_codec::TopicFilter;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{ControlState, Settings};
use crate::wire::{read_u8, read_u16, read_u32, read_u64};
use crate::{ClusterId, DecodeError, NodeId, PartitionId, Row, RowValue};

/// The tables, by the first byte of a row's key. Part of the stored format.
mod table {
    pub(super) const SETTINGS: u8 = b'c';
    pub(super) const MEMBER: u8 = b'm';
    pub(super) const FORMER: u8 = b'x';
    pub(super) const PLACEMENT: u8 = b'p';
    pub(super) const FOUNDERS: u8 = b'f';
    pub(super) const ROUTE: u8 = b'r';
    pub(super) const ACCESS: u8 = b'a';
}

#[derive(Serialize, Deserialize)]
struct SettingsRow {
    cluster: ClusterId,
    settings: Settings,
}

pub(super) fn settings_key() -> Vec<u8> {
    vec![table::SETTINGS]
}

pub(super) fn member_key(node: NodeId) -> Vec<u8> {
    node_key(table::MEMBER, node)
}

pub(super) fn former_key(node: NodeId) -> Vec<u8> {
    node_key(table::FORMER, node)
}

pub(super) fn placement_key(partition: PartitionId) -> Vec<u8> {
    partition_key(table::PLACEMENT, partition)
}

pub(super) fn founders_key(partition: PartitionId) -> Vec<u8> {
    partition_key(table::FOUNDERS, partition)
}

fn partition_key(table: u8, partition: PartitionId) -> Vec<u8> {
    let mut key = vec![table];
    key.put_u16_le(partition.0);
    key
}

pub(super) fn route_key(filter: &TopicFilter) -> Vec<u8> {
    let mut key = vec![table::ROUTE];
    key.put_slice(filter.as_str().as_bytes());
    key
}

pub(super) fn access_key(key: &Key) -> Vec<u8> {
    let mut whole = vec![table::ACCESS];
    whole.append(&mut key.encode());
    whole
}

fn node_key(table: u8, node: NodeId) -> Vec<u8> {
    let mut key = vec![table];
    key.put_u64_le(node.0);
    key
}

impl ControlState {
    /// Filters that a node has subscribers for.
    pub(super) fn routes_of(&self, node: NodeId) -> impl Iterator<Item = TopicFilter> + '_ {
        let plain = self.routes.iter().filter_map(move |(filter, mut nodes)| {
            nodes.any(|of| of == node).then(|| filter.to_owned())
        });
        let shared = self.routes.shares().filter_map(move |route| {
            let has = route.members().any(|(of, _)| of == node);
            has.then(|| format!("$share/{}/{}", route.name(), route.filter()))
        });
        plain
            .chain(shared)
            .filter_map(|filter| TopicFilter::try_from(filter).ok())
    }

    /// The key of every row.
    pub(super) fn keys(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let plain = self.routes.iter().map(|(filter, _)| filter.to_owned());
        let shared = self
            .routes
            .shares()
            .map(|route| format!("$share/{}/{}", route.name(), route.filter()));
        let routes = plain
            .chain(shared)
            .filter_map(|filter| TopicFilter::try_from(filter).ok());
        let settings = self.cluster.map(|_| settings_key());
        settings
            .into_iter()
            .chain(self.members.keys().map(|node| member_key(*node)))
            .chain(self.former.iter().map(|node| former_key(*node)))
            .chain(
                self.placement
                    .keys()
                    .map(|partition| placement_key(*partition)),
            )
            .chain(
                self.founders
                    .keys()
                    .map(|partition| founders_key(*partition)),
            )
            .chain(routes.map(|filter| route_key(&filter)))
            .chain(self.access.keys().map(|key| access_key(&key)))
    }

    /// The present value of a row; `None` when it is gone.
    pub(super) fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        let (table, rest) = key.split_first()?;
        let node = || Some(NodeId(u64::from_le_bytes(rest.try_into().ok()?)));
        let partition = || Some(PartitionId(u16::from_le_bytes(rest.try_into().ok()?)));
        match *table {
            table::SETTINGS => Some(to_json(&SettingsRow {
                cluster: self.cluster?,
                settings: self.settings.clone(),
            })),
            table::MEMBER => self.members.get(&node()?).map(to_json),
            table::FORMER => self.former.contains(&node()?).then(Vec::new),
            table::PLACEMENT => self.placement.get(&partition()?).map(to_json),
            table::FOUNDERS => self.founders.get(&partition()?).map(to_json),
            table::ROUTE => {
                self.route_value(&TopicFilter::try_from(std::str::from_utf8(rest).ok()?).ok()?)
            }
            table::ACCESS => self.access.value(&Key::decode(rest).ok()?),
            _ => None,
        }
    }

    fn route_value(&self, filter: &TopicFilter) -> Option<Vec<u8>> {
        let members = self.routes.members_of(filter);
        let mut out = Vec::new();
        for (node, count) in &members {
            out.put_u64_le(node.0);
            out.put_u32_le(*count);
        }
        (!members.is_empty()).then_some(out)
    }

    pub(super) fn load_row(&mut self, row: Row) -> Result<(), DecodeError> {
        let mut key = Bytes::from(row.key);
        let Some(value) = row.value.and_then(RowValue::bytes) else {
            return Ok(());
        };
        match read_u8(&mut key, "table of a row")? {
            table::SETTINGS => {
                let SettingsRow { cluster, settings } = from_json(&value, "settings")?;
                self.cluster = Some(cluster);
                self.settings = settings;
            }
            table::MEMBER => {
                let node = NodeId(read_u64(&mut key, "member")?);
                self.members.insert(node, from_json(&value, "member")?);
            }
            table::FORMER => {
                self.former
                    .insert(NodeId(read_u64(&mut key, "former member")?));
            }
            table::PLACEMENT => {
                let partition = PartitionId(read_u16(&mut key, "partition")?);
                self.placement
                    .insert(partition, from_json(&value, "placement")?);
            }
            table::FOUNDERS => {
                let partition = PartitionId(read_u16(&mut key, "partition")?);
                self.founders
                    .insert(partition, from_json(&value, "founders")?);
            }
            table::ROUTE => {
                let filter = key
                    .try_into()
                    .map_err(|_| DecodeError::new("route", "not a topic filter"))?;
                let mut value = Bytes::from(value);
                while !value.is_empty() {
                    let node = NodeId(read_u64(&mut value, "route")?);
                    let members = read_u32(&mut value, "route members")?;
                    let set = self.routes.set_members(&filter, node, members);
                    set.map_err(|_| DecodeError::new("route", "the route table is full"))?;
                }
            }
            table::ACCESS => {
                let loaded = Key::decode(&key).and_then(|key| self.access.load(key, &value));
                loaded.map_err(|_| DecodeError::new("access", "not of this version"))?;
            }
            _ => return Err(DecodeError::new("table of a row", "unknown")),
        }
        Ok(())
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data always has a JSON form")
}

fn from_json<T: DeserializeOwned>(value: &[u8], what: &'static str) -> Result<T, DecodeError> {
    serde_json::from_slice(value).map_err(|_| DecodeError::new(what, "not of this version"))
}
