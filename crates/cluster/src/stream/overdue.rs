//! Whose records may still commit although nobody waits for them any more.
//!
//! A submission whose deadline passed is answered with "nothing is known", and its batch stays, since the numbers must go on. Until that
//! batch is answered, a connection that is long gone may still append: a newer one of the same client must be told (see `takeover`).

use std::collections::HashMap;

use magpie_state::ClientId;
use tokio::sync::watch;

use super::Stopping;

/// The clients of one stream with something overdue; bounded by the bytes that the stream has on the way.
pub(super) struct Overdue {
    clients: watch::Sender<Clients>,
}

#[derive(Default)]
struct Clients {
    /// Submissions given up and not answered, per client.
    given_up: HashMap<ClientId, u32>,
    /// The stream has ended, with whatever it had on the way.
    is_closed: bool,
}

impl Overdue {
    pub(super) fn new() -> Self {
        Self {
            clients: watch::Sender::default(),
        }
    }

    /// Submissions of these clients were given up.
    pub(super) fn give_up(&self, clients: Vec<ClientId>) {
        if !clients.is_empty() {
            self.clients.send_modify(|state| {
                for client in clients {
                    *state.given_up.entry(client).or_default() += 1;
                }
            });
        }
    }

    /// Submissions that were given up are answered now.
    pub(super) fn settle(&self, clients: &[ClientId]) {
        if !clients.is_empty() {
            self.clients.send_modify(|state| {
                for client in clients {
                    if let Some(count) = state.given_up.get_mut(client) {
                        *count -= 1;
                        if *count == 0 {
                            state.given_up.remove(client);
                        }
                    }
                }
            });
        }
    }

    /// The stream has ended: what was on the way stays unknown.
    pub(super) fn close(&self) {
        self.clients.send_modify(|state| state.is_closed = true);
    }

    /// Whether something of `client` may still commit that was given up.
    pub(super) fn has(&self, client: &ClientId) -> bool {
        let state = self.clients.borrow();
        state.is_closed || state.given_up.contains_key(client)
    }

    /// Resolves when that is not so.
    pub(super) async fn settled(&self, client: &ClientId) -> Result<(), Stopping> {
        let mut clients = self.clients.subscribe();
        let is_settled = |state: &Clients| state.is_closed || !state.given_up.contains_key(client);
        let state = clients.wait_for(is_settled).await.map_err(|_| Stopping)?;
        if state.is_closed {
            return Err(Stopping);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test]
    async fn a_client_is_settled_when_everything_given_up_is_answered() {
        let client = ClientId("phone".try_into().unwrap());
        let overdue = Overdue::new();
        assert_eq!(overdue.settled(&client).await, Ok(()));
        overdue.give_up(vec![client.clone(), client.clone()]);
        overdue.settle(std::slice::from_ref(&client));
        assert!(overdue.has(&client));
        assert!(futures::poll!(std::pin::pin!(overdue.settled(&client))).is_pending());
        overdue.settle(std::slice::from_ref(&client));
        assert!(!overdue.has(&client));
        assert_eq!(overdue.settled(&client).await, Ok(()));
        overdue.close();
        assert_eq!(overdue.settled(&client).await, Err(Stopping));
        assert!(overdue.has(&client), "what was on the way stays unknown");
    }
}
