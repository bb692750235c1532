//! Ports for nodes of the tests.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A port below those that the system gives to outgoing connections: while a node is down, or not yet up, nobody else may get its port.
pub(crate) fn free_port() -> u16 {
    /// Tests run at once: each port goes to one of them. Processes begin at different places.
    static NEXT: LazyLock<AtomicU32> =
        LazyLock::new(|| AtomicU32::new(getrandom::u32().unwrap() % 12_000));
    loop {
        let port = 20_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 12_000;
        let port = u16::try_from(port).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
