//! TLS between nodes: both sides show a certificate of the cluster's authority. It comes on top of the cluster secret, which every call
//! carries in any case.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, Error, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::socket::Socket;
use crate::config::{ConfigError, TlsFiles};

/// A handshake that takes longer has failed.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// What this node shows to others, and whom it trusts. New connections use what was read last.
pub struct NodeTls {
    files: TlsFiles,
    configs: ArcSwap<Configs>,
}

struct Configs {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl NodeTls {
    /// Reads the files.
    ///
    /// # Errors
    /// The first thing that is wrong with them, by the key of the configuration.
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, ConfigError> {
        let configs = read(&files)?;
        Ok(Arc::new(Self {
            files,
            configs: ArcSwap::from_pointee(configs),
        }))
    }

    /// Reads them again. Connections that are there stay.
    ///
    /// # Errors
    /// As [`load`](Self::load); then everything stays as it was.
    pub fn reload(&self) -> Result<(), ConfigError> {
        self.configs.store(Arc::new(read(&self.files)?));
        Ok(())
    }

    /// The handshake with the node that was dialled at `host:port`, whose certificate must be for that host.
    pub(super) async fn connect(&self, address: &str, stream: TcpStream) -> io::Result<Socket> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::clone(&self.configs.load().client));
        let stream = in_time(connector.connect(name, stream)).await?;
        Ok(Socket::Tls(Box::new(stream.into())))
    }

    /// The handshake with a node that has connected.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<Socket> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.configs.load().server));
        let stream = in_time(acceptor.accept(stream)).await?;
        Ok(Socket::Tls(Box::new(stream.into())))
    }
}

async fn in_time<T>(handshake: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(HANDSHAKE_WITHIN, handshake)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn read(files: &TlsFiles) -> Result<Configs, ConfigError> {
    let chain = magpie_tls::certificates(&files.certificate);
    let chain = chain.map_err(|error| wrong("cluster_tls_cert", &error))?;
    let key = magpie_tls::private_key(&files.key);
    let key = key.map_err(|error| wrong("cluster_tls_key", &error))?;
    let roots = magpie_tls::authorities(&files.authority);
    let roots = Arc::new(roots.map_err(|error| wrong("cluster_tls_ca", &error))?);
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), magpie_tls::provider())
            .build()
            .map_err(|error| unusable("cluster_tls_ca", &files.authority, &error))?;
    let unusable = |error: Error| unusable("cluster_tls_key", &files.key, &error);
    let server = magpie_tls::server()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(unusable)?;
    let client = magpie_tls::client()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(unusable)?;
    Ok(Configs {
        client: Arc::new(client),
        server: Arc::new(server),
    })
}

fn unusable(key: &'static str, path: &Path, error: &impl Display) -> ConfigError {
    wrong(key, &format!("{} cannot be used: {error}", path.display()))
}

fn wrong(key: &'static str, problem: &impl ToString) -> ConfigError {
    ConfigError {
        key,
        problem: problem.to_string(),
    }
}
