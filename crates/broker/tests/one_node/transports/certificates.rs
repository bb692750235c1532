//! An authority, certificates that it signs, and clients that know it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    SanType, date_time_ymd,
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

/// What `Authority` signs for.
pub(super) const HOST: &str = "broker.example";

pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

/// A certificate and its key.
pub(super) struct Certified {
    certificate: Certificate,
    key: KeyPair,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "the authority");
        let key = KeyPair::generate().unwrap();
        Self {
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) fn sign(&self, change: impl FnOnce(&mut CertificateParams)) -> Certified {
        let mut params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certified { certificate, key }
    }

    /// For a server.
    pub(super) fn server(&self) -> Certified {
        self.sign(|_| {})
    }

    /// For a client with names of every kind.
    pub(super) fn client(&self, name: &str) -> Certified {
        self.sign(|params| {
            params.distinguished_name.push(DnType::CommonName, name);
            params.subject_alt_names = vec![
                SanType::DnsName(format!("{name}.example").try_into().unwrap()),
                SanType::URI(format!("urn:device:{name}").try_into().unwrap()),
                SanType::Rfc822Name(format!("{name}@example.com").try_into().unwrap()),
            ];
        })
    }

    pub(super) fn expired(&self) -> Certified {
        self.sign(|params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        })
    }

    /// The file with its own certificate.
    pub(super) fn file(&self) -> PathBuf {
        let path = self.directory.path().join("ca.pem");
        std::fs::write(&path, self.issuer.pem()).unwrap();
        path
    }

    /// Where the certificate and the key of the node are.
    pub(super) fn paths(&self) -> (PathBuf, PathBuf) {
        let path = |name: &str| self.directory.path().join(name);
        (path("node.pem"), path("node.key"))
    }

    /// Puts them there.
    pub(super) fn install(&self, certified: &Certified) {
        let (certificate, key) = self.paths();
        write(&certificate, &certified.certificate.pem());
        write(&key, &certified.key.serialize_pem());
    }

    /// A client that trusts it.
    pub(super) fn trusting(&self) -> Trusting<'_> {
        Trusting {
            authority: self,
            own: None,
            protocols: &[],
            versions: tokio_rustls::rustls::DEFAULT_VERSIONS,
        }
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// How a client connects.
pub(super) struct Trusting<'a> {
    authority: &'a Authority,
    pub(super) own: Option<&'a Certified>,
    pub(super) protocols: &'a [&'a str],
    pub(super) versions: &'a [&'static SupportedProtocolVersion],
}

impl Trusting<'_> {
    /// What several connections of a client have in common.
    pub(super) fn connector(self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match self.own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivatePkcs8KeyDer::from(own.key.serialize_der());
                let chain = vec![own.certificate.der().clone()];
                builder
                    .with_client_auth_cert(chain, PrivateKeyDer::Pkcs8(key))
                    .unwrap()
            }
        };
        let protocols = self.protocols.iter();
        config.alpn_protocols = protocols.map(|it| it.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }

    /// The handshake over a connection that is there.
    pub(super) async fn handshake(
        self,
        socket: TcpStream,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(HOST).unwrap();
        self.connector().connect(name, socket).await
    }

    pub(super) async fn connect(
        self,
        address: std::net::SocketAddr,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(address).await?;
        self.handshake(socket).await
    }
}
