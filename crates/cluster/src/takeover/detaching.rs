//! Letting go of attachments, and what a newer connection may still ask for meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use magpie_state::{ClientId, Epoch};
use tokio::sync::watch;

use super::Takeover;
use crate::stream::Done;
use crate::{Detach, Handover};

/// What a connection left is kept so long after its detach was committed: an attach that was committed before asks for it.
const KEPT_FOR: Duration = Duration::from_secs(2);
/// More are not kept: whoever asks goes on from the recorded progress.
const KEPT_MAX: usize = 1 << 16;

/// What connections left that are being detached, by client. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Detaching {
    by_client: Arc<Mutex<HashMap<ClientId, Vec<Handover>>>>,
    /// Detaches that are not committed.
    under_way: Arc<watch::Sender<usize>>,
}

/// A detach that is not committed, until it is dropped.
struct UnderWay(Arc<watch::Sender<usize>>);

/// Removes it when dropped.
struct Kept {
    detaching: Detaching,
    client: ClientId,
    epoch: Epoch,
}

impl Detaching {
    /// What the newest connection of `client` below `epoch` left.
    pub(super) fn left(&self, client: &ClientId, epoch: Epoch) -> Option<Handover> {
        let by_client = self.lock();
        let left = by_client.get(client)?.iter();
        left.filter(|left| left.epoch < epoch)
            .max_by_key(|left| left.epoch)
            .cloned()
    }

    fn keep(&self, detach: &Detach) -> Option<Kept> {
        let progress = detach.last.clone()?;
        let mut by_client = self.lock();
        if by_client.len() >= KEPT_MAX {
            return None;
        }
        by_client
            .entry(detach.client.clone())
            .or_default()
            .push(Handover {
                epoch: detach.epoch,
                progress,
            });
        Some(Kept {
            detaching: self.clone(),
            client: detach.client.clone(),
            epoch: detach.epoch,
        })
    }

    fn begin(&self) -> UnderWay {
        self.under_way.send_modify(|count| *count += 1);
        UnderWay(Arc::clone(&self.under_way))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ClientId, Vec<Handover>>> {
        self.by_client
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut by_client = self.detaching.lock();
        if let Some(left) = by_client.get_mut(&self.client) {
            left.retain(|left| left.epoch != self.epoch);
            if left.is_empty() {
                by_client.remove(&self.client);
            }
        }
    }
}

impl Takeover {
    /// Returns when every detach so far is committed.
    pub(crate) async fn detached(&self) {
        let mut under_way = self.inner.detaching.under_way.subscribe();
        // The sender lives in `self`.
        let _ = under_way.wait_for(|count| *count == 0).await;
    }

    /// Lets go of an attachment whose connection is gone.
    pub(crate) fn detach(&self, detach: Detach) {
        let kept = self.inner.detaching.keep(&detach);
        let under_way = self.inner.detaching.begin();
        let takeover = self.clone();
        tokio::spawn(async move {
            // What may still commit keeps the attachment: a newer one must find it, and raise a fence.
            let settled = takeover.streams().iter();
            let settled = settled.map(|stream| stream.settled(&detach.client));
            if futures::future::try_join_all(settled).await.is_err() {
                return;
            }
            let client = detach.client.clone();
            let record = [detach.into_record()];
            loop {
                match takeover.of(&client).commit(&record).await {
                    Ok(Done::Taken { .. }) | Err(_) => break,
                    // Repeating is harmless: a newer attachment stays.
                    Ok(Done::NotProposed | Done::Unknown) => {}
                }
            }
            drop(under_way);
            if let Some(kept) = kept {
                tokio::time::sleep(KEPT_FOR).await;
                drop(kept);
            }
        });
    }
}
