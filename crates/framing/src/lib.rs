//! What may be around MQTT on a network connection: the PROXY header of a balancer and the ClientHello of TLS before it, and WebSocket
//! (RFC 6455) around it.
//!
//! Bytes come in and bytes go out; nothing here knows a socket or a clock.

pub mod client_hello;
pub mod frames;
pub mod proxy_header;
pub mod upgrade;
