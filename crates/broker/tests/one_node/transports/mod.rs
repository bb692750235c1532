//! MQTT over everything that carries it, and what may come before it.

mod certificates;
mod half_open;
mod proxy;
mod tls;
mod websocket;
