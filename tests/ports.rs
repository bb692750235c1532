//! Ports for nodes of tests, in whichever crate.

use std::net::TcpListener;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The first of so many free ports in a row, below those that the system gives to outgoing connections: while a node is down, or not yet up,
/// nobody else may get its port.
pub(crate) fn free_ports(count: u16) -> u16 {
    /// Tests run at once: each port goes to one of them. Processes begin at different places.
    static NEXT: LazyLock<AtomicU32> =
        LazyLock::new(|| AtomicU32::new(std::process::id() % 12_000 * 61));
    for _ in 0..12_000 {
        let next = NEXT.fetch_add(u32::from(count), Ordering::Relaxed);
        let base = 20_000 + u16::try_from(next % 12_000).unwrap();
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (base..base + count).all(is_free) {
            return base;
        }
    }
    panic!("no {count} free ports in a row");
}
