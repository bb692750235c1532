//! What every TLS of ours begins with: the PEM files that an operator names, and the one choice of cryptography and versions.
//!
//! Listeners, nodes among themselves, our clients and requests to web services each go on from here with their own rules: who shows a
//! certificate, and who is trusted. This crate knows no socket, no handshake and no configuration key.

mod files;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, ConfigBuilder, ServerConfig, WantsVerifier};

pub use files::{Error, authorities, certificates, private_key};

/// The cryptography of all our connections.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// How a side that dials begins: TLS 1.2 and 1.3.
#[must_use]
pub fn client() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.2 and 1.3")
}

/// How a side that is dialled begins: TLS 1.2 and 1.3.
#[must_use]
pub fn server() -> ConfigBuilder<ServerConfig, WantsVerifier> {
    ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.2 and 1.3")
}
