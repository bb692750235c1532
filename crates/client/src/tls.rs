//! TLS on the client's side.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use magpie_tls::{authorities, certificates, private_key, provider};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Whose certificates a client takes.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// Those that an authority in this PEM file has signed.
    File(&'a Path),
    /// Those that this system trusts.
    System,
    /// Anybody's: the connection is secret from those who only listen, and from nobody else.
    Anybody,
}

/// How to speak TLS. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
}

impl Tls {
    /// With the PEM files of a certificate and its key, if the client shows one.
    ///
    /// # Errors
    /// In words: a file cannot be used.
    pub fn new(trust: Trust<'_>, own: Option<(&Path, &Path)>) -> Result<Self, String> {
        let builder = magpie_tls::client();
        let builder = match trust {
            Trust::File(path) => builder
                .with_root_certificates(authorities(path).map_err(|error| error.to_string())?),
            Trust::System => builder.with_root_certificates(system_authorities()?),
            Trust::Anybody => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnybodyVerifier(provider()))),
        };
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let files = || Ok((certificates(certificate)?, private_key(key)?));
                let (chain, der) = files().map_err(|error: magpie_tls::Error| error.to_string())?;
                builder.with_client_auth_cert(chain, der).map_err(|error| {
                    let (certificate, key) = (certificate.display(), key.display());
                    format!("{certificate} and {key} cannot be used together: {error}")
                })?
            }
        };
        config.alpn_protocols = vec![b"mqtt".to_vec()];
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
        })
    }

    pub(crate) async fn handshake(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.connector.connect(name, stream).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

fn system_authorities() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    match found.errors.first() {
        Some(error) if roots.is_empty() => Err(error.to_string()),
        None if roots.is_empty() => Err("this system trusts no authority".to_owned()),
        _ => Ok(roots),
    }
}

/// Takes every certificate, but only from whoever has its key.
#[derive(Debug)]
struct AnybodyVerifier(Arc<CryptoProvider>);

impl ServerCertVerifier for AnybodyVerifier {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
