//! Ports for processes of the tests.

use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The first of so many free ports in a row, below those that the system gives to outgoing connections.
pub(crate) fn free_ports(count: u16) -> u16 {
    /// Tests of one process search from different places, as processes do.
    static TESTS: AtomicUsize = AtomicUsize::new(0);
    let from = std::process::id() as usize * 61 + TESTS.fetch_add(1, Ordering::Relaxed) * 1000;
    (from..from + 10_000)
        .step_by(usize::from(count))
        .map(|port| 20_000 + u16::try_from(port % 12_000).unwrap())
        .find(|base| {
            let listeners: Result<Vec<_>, _> = (*base..base + count)
                .map(|port| TcpListener::bind(("127.0.0.1", port)))
                .collect();
            listeners.is_ok()
        })
        .expect("free ports")
}
