//! What a node must not forget about itself: who it is, which life this is, and which cluster it belongs to.

use std::sync::{Arc, Mutex, PoisonError};

use magpie_state::control::{Member, Settings};
use magpie_state::{ClusterId, Incarnation, NodeId};
use magpie_storage::DataDir;
use serde::{Deserialize, Serialize};

use crate::StartError;

const FILE: &str = "node.json";

/// The identity in an open data directory. Cheap to clone. Every change is on disk before it counts.
#[derive(Clone)]
pub(crate) struct IdentityFile {
    inner: Arc<Inner>,
}

struct Inner {
    dir: Arc<DataDir>,
    previous: Incarnation,
    content: Mutex<Content>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    node: NodeId,
    /// The life that wrote this.
    incarnation: Incarnation,
    cluster: Option<ClusterId>,
    founding: Option<Founding>,
    /// Where the other members were when this node joined, for the time until the control group's state is here.
    addresses: Vec<(NodeId, String)>,
    /// Why this directory must not be started again.
    fenced: Option<String>,
}

/// What the founders of a cluster agree on before any of them starts its control group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Founding {
    /// Drawn by the founder.
    pub(crate) cluster: ClusterId,
    /// The founder's.
    pub(crate) settings: Settings,
    /// All founders, by id.
    pub(crate) members: Vec<Member>,
}

impl IdentityFile {
    /// Reads the identity, or draws one; begins a new life, which is on disk when this returns. Blocks.
    ///
    /// # Errors
    /// [`StartError::DataDir`] for a fenced or unreadable file, [`StartError::Config`] when it cannot be written.
    pub(crate) fn open(dir: Arc<DataDir>) -> Result<Self, StartError> {
        let path = dir.path().join(FILE);
        let stored = dir.read_file(FILE).map_err(cannot)?;
        let mut content = match stored {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                StartError::DataDir(format!(
                    "{}: not readable as a node's identity ({error}); restore the file, or empty the directory so that the node joins anew",
                    path.display()
                ))
            })?,
            None => Content {
                node: NodeId(draw()?),
                incarnation: Incarnation::default(),
                cluster: None,
                founding: None,
                addresses: Vec::new(),
                fenced: None,
            },
        };
        if let Some(why) = &content.fenced {
            return Err(StartError::DataDir(fenced(&dir, why)));
        }
        let previous = content.incarnation;
        content.incarnation = Incarnation {
            counter: previous.counter + 1,
            nonce: draw()?,
        };
        let file = Self {
            inner: Arc::new(Inner {
                dir,
                previous,
                content: Mutex::new(content.clone()),
            }),
        };
        file.write(&content).map_err(cannot)?;
        Ok(file)
    }

    /// This node.
    pub(crate) fn node(&self) -> NodeId {
        self.lock().node
    }

    /// This life.
    pub(crate) fn incarnation(&self) -> Incarnation {
        self.lock().incarnation
    }

    /// The life before this one; counter 0 if there was none.
    pub(crate) fn previous(&self) -> Incarnation {
        self.inner.previous
    }

    /// The cluster, once it is known.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.lock().cluster
    }

    /// What the founders agreed on, if this node is one of them.
    pub(crate) fn founding(&self) -> Option<Founding> {
        self.lock().founding.clone()
    }

    /// Where members were when this node joined.
    pub(crate) fn addresses(&self) -> Vec<(NodeId, String)> {
        self.lock().addresses.clone()
    }

    /// This node is one of the founders. Blocks.
    pub(crate) fn set_founding(&self, founding: Founding) -> Result<(), magpie_storage::Error> {
        self.change(|content| {
            content.cluster = Some(founding.cluster);
            content.founding = Some(founding);
        })
    }

    /// This node was made a member of a cluster. Blocks.
    pub(crate) fn set_joined(
        &self,
        cluster: ClusterId,
        addresses: Vec<(NodeId, String)>,
    ) -> Result<(), magpie_storage::Error> {
        self.change(|content| {
            content.cluster = Some(cluster);
            content.addresses = addresses;
        })
    }

    /// No later start passes. Returns the message for the operator, even if the mark could not be written. Blocks.
    pub(crate) fn fence(&self, why: &str) -> String {
        let written = self.change(|content| content.fenced = Some(why.to_owned()));
        if let Err(error) = written {
            tracing::error!(%error, "the fenced mark was not written");
        }
        fenced(&self.inner.dir, why)
    }

    fn change(&self, change: impl FnOnce(&mut Content)) -> Result<(), magpie_storage::Error> {
        let mut content = self.lock();
        let mut new = content.clone();
        change(&mut new);
        self.write(&new)?;
        *content = new;
        Ok(())
    }

    fn write(&self, content: &Content) -> Result<(), magpie_storage::Error> {
        let bytes = serde_json::to_vec_pretty(content).expect("plain data always has a JSON form");
        self.inner.dir.write_file(FILE, &bytes)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Content> {
        self.inner
            .content
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A random number.
pub(crate) fn draw() -> Result<u64, StartError> {
    getrandom::u64()
        .map_err(|error| StartError::Config(format!("the system gives no random numbers: {error}")))
}

fn cannot(error: magpie_storage::Error) -> StartError {
    StartError::Config(error.to_string())
}

fn fenced(dir: &DataDir, why: &str) -> String {
    format!(
        "{}: this data directory must not be started again: {why}. Move it away and start with an empty one: the node then joins the cluster \
         anew and takes the place of its former self",
        dir.path().display()
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn open(path: &std::path::Path) -> Result<IdentityFile, StartError> {
        IdentityFile::open(Arc::new(DataDir::open(path).unwrap()))
    }

    #[test]
    fn each_start_is_a_new_life_of_the_same_node() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).unwrap();
        let (node, life) = (first.node(), first.incarnation());
        assert_eq!((first.previous().counter, life.counter), (0, 1));
        drop(first);
        let second = open(dir.path()).unwrap();
        assert_eq!(second.node(), node);
        assert_eq!(second.previous(), life);
        assert_eq!(second.incarnation().counter, 2);
        assert_ne!(second.incarnation().nonce, life.nonce);
    }

    #[test]
    fn a_fenced_directory_is_not_started_again() {
        let dir = tempfile::tempdir().unwrap();
        let message = open(dir.path()).unwrap().fence("an old copy");
        assert!(message.contains("an old copy"));
        assert!(matches!(
            open(dir.path()).err(),
            Some(StartError::DataDir(text)) if text == message
        ));
    }

    #[test]
    fn the_cluster_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).unwrap();
        let founding = Founding {
            cluster: ClusterId(u128::MAX - 7),
            settings: Settings::default(),
            members: Vec::new(),
        };
        first.set_founding(founding.clone()).unwrap();
        drop(first);
        let second = open(dir.path()).unwrap();
        assert_eq!(second.cluster(), Some(founding.cluster));
        assert_eq!(second.founding(), Some(founding));
    }

    #[test]
    fn a_damaged_file_is_not_taken_for_a_blank_node() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());
        std::fs::write(dir.path().join(FILE), "{}").unwrap();
        assert!(matches!(
            open(dir.path()).err(),
            Some(StartError::DataDir(_))
        ));
    }
}
