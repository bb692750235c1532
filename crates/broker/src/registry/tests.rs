#![expect(clippy::unwrap_used, reason = "tests")]

use std::task::{Context, Waker};

use magpie_codec::Text;

use super::*;
use crate::MailboxConfig;
use crate::mailbox::Taken;

fn client() -> ClientId {
    ClientId(Text::from_static("c"))
}

fn handle(number: u64) -> Arc<Handle> {
    Arc::new(Handle::new(
        number,
        crate::peer::Peer::tcp(([127, 0, 0, 1], 1).into()),
        &MailboxConfig::default(),
    ))
}

fn eviction(handle: &Handle) -> Option<Eviction> {
    let mut taken = Taken::default();
    let _ = handle
        .mailbox
        .poll_take(&Context::from_waker(Waker::noop()), &mut taken, true);
    taken.eviction
}

/// [MQTT-3.1.4-3]
#[test]
fn the_newer_connection_of_a_client_ends_the_older() {
    let registry = Registry::new();
    let (old, new) = (handle(1), handle(2));
    registry.enter(&client(), &old);
    assert!(registry.attached(&client(), &old, Epoch(10)));
    registry.enter(&client(), &new);
    assert!(registry.attached(&client(), &new, Epoch(11)));
    assert_eq!(eviction(&old), Some(Eviction::TakenOver));
    assert_eq!(eviction(&new), None);
}

#[test]
fn supersede_waits_until_the_connection_is_gone() {
    let registry = Registry::new();
    let old = handle(1);
    registry.enter(&client(), &old);
    assert!(registry.attached(&client(), &old, Epoch(10)));
    let append = old.mailbox.begin_append();
    let (tell, mut gone) = oneshot::channel();
    registry.supersede(&client(), Epoch(12), tell);
    assert_eq!(eviction(&old), Some(Eviction::TakenOver));
    old.mailbox.close(&mut Vec::new());
    assert!(gone.try_recv().is_err());
    drop(append);
    gone.try_recv().unwrap();
}

#[test]
fn an_attach_that_was_superseded_while_pending_must_not_act() {
    let registry = Registry::new();
    let slow = handle(1);
    registry.enter(&client(), &slow);
    let (tell, mut gone) = oneshot::channel();
    registry.supersede(&client(), Epoch(12), tell);
    // It has appended nothing, so the newer one need not wait.
    gone.try_recv().unwrap();
    assert!(!registry.attached(&client(), &slow, Epoch(11)));
}

#[test]
fn an_unknown_client_is_gone() {
    let registry = Registry::new();
    let (tell, mut gone) = oneshot::channel();
    registry.supersede(&client(), Epoch(1), tell);
    gone.try_recv().unwrap();
    assert!(!registry.evict(&client(), Eviction::Kicked));
}

#[test]
fn who_left_is_forgotten() {
    let registry = Registry::new();
    let (first, second) = (handle(1), handle(2));
    registry.enter(&client(), &first);
    registry.enter(&client(), &second);
    registry.leave(&client(), &first);
    assert_eq!(registry.handles().len(), 1);
    registry.leave(&client(), &second);
    assert!(registry.handles().is_empty());
}
