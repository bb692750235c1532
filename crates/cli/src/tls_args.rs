//! The options of `pub` and `sub` about TLS, named as in `mosquitto_pub`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use magpie_client::{Tls, Trust};

/// Any of them turns TLS on.
#[derive(Args, Debug)]
pub(crate) struct TlsArgs {
    /// TLS, with a server whose certificate an authority in this PEM file has signed
    #[arg(long, value_name = "FILE")]
    cafile: Option<PathBuf>,
    /// TLS, with a server whose certificate this system trusts
    #[arg(long, conflicts_with = "cafile")]
    tls_use_os_certs: bool,
    /// TLS, with whoever answers: for trying things out
    #[arg(long, conflicts_with_all = ["cafile", "tls_use_os_certs"])]
    insecure: bool,
    /// PEM file with the client's certificate
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// PEM file with its private key
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

impl TlsArgs {
    /// Whether TLS is to be spoken.
    pub(crate) const fn is_on(&self) -> bool {
        self.cafile.is_some() || self.tls_use_os_certs || self.insecure || self.cert.is_some()
    }

    /// How, if so.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub(crate) fn tls(&self) -> anyhow::Result<Option<Tls>> {
        if !self.is_on() {
            return Ok(None);
        }
        let trust = match (&self.cafile, self.insecure) {
            (Some(path), _) => Trust::File(path),
            (None, true) => Trust::Anybody,
            (None, false) => Trust::System,
        };
        let own = self.cert.as_deref().zip(self.key.as_deref());
        let tls = Tls::new(trust, own).map_err(anyhow::Error::msg);
        tls.context("TLS").map(Some)
    }
}
