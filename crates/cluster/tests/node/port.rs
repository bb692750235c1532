//! Ports for nodes of the tests.

/// A port below those that the system gives to outgoing connections: while a node is down, or not yet up, nobody else may get its port.
pub(crate) fn free_port() -> u16 {
    loop {
        let drawn = getrandom::u32().unwrap() % 12_000 + 20_000;
        let port = u16::try_from(drawn).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
