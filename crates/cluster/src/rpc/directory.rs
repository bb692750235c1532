//! Where nodes can be reached.

use std::collections::BTreeMap;
use std::sync::Arc;

use magpie_state::NodeId;
use tokio::sync::watch;

/// Node id to advertised `host:port`, kept up to date by the membership module. Cheap to clone; names are resolved by the dialler, anew
/// at each attempt.
#[derive(Debug, Clone)]
pub struct Directory {
    addresses: Arc<watch::Sender<BTreeMap<NodeId, String>>>,
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            addresses: Arc::new(watch::Sender::new(BTreeMap::new())),
        }
    }
}

impl Directory {
    /// Sets the address of a node. Connections to a former address are not closed; the next attempt uses the new one.
    pub fn set(&self, node: NodeId, address: impl Into<String>) {
        let address = address.into();
        self.addresses
            .send_if_modified(|map| map.insert(node, address.clone()).as_ref() != Some(&address));
    }

    /// Forgets a node.
    pub fn remove(&self, node: NodeId) {
        self.addresses
            .send_if_modified(|map| map.remove(&node).is_some());
    }

    /// The address of a node, if it has one.
    #[must_use]
    pub fn address(&self, node: NodeId) -> Option<String> {
        self.addresses.borrow().get(&node).cloned()
    }

    /// All addresses, changing over time.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<BTreeMap<NodeId, String>> {
        self.addresses.subscribe()
    }
}
