//! Who may do what: changes by operators, and the policy that this node goes by.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use magpie_access::{Change, Changed, Policy};
use magpie_state::control::{ControlAnswer, ControlCommand};
use tokio::sync::watch;

use super::Membership;
use crate::Error;

impl Membership {
    /// The newest policy that is applied here.
    pub(crate) fn policy(&self) -> watch::Receiver<Arc<Policy>> {
        self.inner.policy.subscribe()
    }

    /// Has a change committed, and applied here.
    pub(crate) async fn change_access(&self, change: Change) -> Result<Changed, Error> {
        let (index, answer) = self.propose(ControlCommand::Access(change)).await?;
        // Committed is committed: a node that is slow to apply does not make it undone.
        let within = self.inner.config.publish_deadline;
        let _ = tokio::time::timeout(within, self.wait_applied(index)).await;
        match answer {
            ControlAnswer::Access(changed) => Ok(changed),
            ControlAnswer::Refused(why) => Err(Error::Refused(why)),
            answer => Err(Error::Refused(format!("{answer:?}"))),
        }
    }

    /// Compiles the policy anew if anything has changed, where nobody waits for it but who waits for the change.
    pub(super) async fn follow_policy(&self) {
        let known = Arc::clone(&self.inner.policy.borrow());
        let here = self.stream();
        let (has_life, tables) = self.state(|state| {
            let tables = state.access();
            let known_life = state.members().get(&here.node);
            (
                known_life.is_some_and(|member| member.incarnation == here.incarnation),
                (tables.revision() != known.revision()).then(|| tables.snapshot()),
            )
        });
        if let Some(tables) = tables {
            let compiled = tokio::task::spawn_blocking(move || known.followed_by(tables));
            // It fails only when the runtime is going down.
            let Ok(policy) = compiled.await else { return };
            self.inner.policy.send_replace(Arc::new(policy));
        }
        if has_life {
            self.inner.is_policy_current.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the policy holds everything that was decided before this start. Before that no client may come: a node that does not know the
    /// rules yet would let everybody do everything.
    pub(super) fn is_policy_current(&self) -> bool {
        self.inner.is_policy_current.load(Ordering::Relaxed)
    }
}
