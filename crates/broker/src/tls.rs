//! TLS for listeners: the files that the configuration names, read again when the operator asks.

mod names;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use magpie_tls::{authorities, certificates, private_key, provider};
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error, InconsistentKeys, ServerConfig};

use crate::ListenerConfig;
use crate::config::Problem;
pub(crate) use names::names;

/// What [ALPN](https://www.rfc-editor.org/rfc/rfc7301) calls MQTT. A client that offers protocols, but not this one, meant another server, and
/// is refused by the handshake.
const ALPN_MQTT: &[u8] = b"mqtt";

/// Below WebSocket there is HTTP.
const ALPN_HTTP: &[u8] = b"http/1.1";

/// A certificate that ends sooner is worth a warning.
const ENDS_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificate {
    /// Without one, there is no connection.
    Required,
    /// One that is shown must be good.
    Optional,
}

/// The settings of new connections. Those that are there keep theirs.
pub(crate) struct Tls {
    mqtt: ArcSwap<ServerConfig>,
    http: ArcSwap<ServerConfig>,
}

/// What was read.
pub(crate) struct Loaded {
    mqtt: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
    /// When the certificate ends.
    pub(crate) ends_at: Option<SystemTime>,
    /// What should be looked at, although it works.
    pub(crate) warnings: Vec<Problem>,
}

impl Tls {
    pub(crate) fn new(loaded: Loaded) -> Self {
        Self {
            mqtt: ArcSwap::new(loaded.mqtt),
            http: ArcSwap::new(loaded.http),
        }
    }

    /// From here on, new connections use this.
    pub(crate) fn replace(&self, loaded: Loaded) {
        self.mqtt.store(loaded.mqtt);
        self.http.store(loaded.http);
    }

    /// For MQTT in TLS, or for WebSocket in TLS.
    pub(crate) fn config(&self, is_websocket: bool) -> Arc<ServerConfig> {
        match is_websocket {
            false => self.mqtt.load_full(),
            true => self.http.load_full(),
        }
    }
}

/// Reads the files.
///
/// # Errors
/// Everything that is wrong with them, by the keys of the configuration.
pub(crate) fn load(config: &ListenerConfig) -> Result<Loaded, Vec<Problem>> {
    let provider = provider();
    let mut problems = Vec::new();
    let mut of = |key: &str, result: Result<Option<_>, String>| {
        result.unwrap_or_else(|what| {
            problems.push(Problem::new(key, what));
            None
        })
    };
    let chain = of(
        "tls_cert",
        required(config.tls_cert.as_deref(), certificates),
    );
    let key = match required(config.tls_key.as_deref(), private_key) {
        Ok(key) => key,
        Err(what) => of("tls_key", Err(what)).and(None),
    };
    let verifier = match client_verifier(config, &provider) {
        Ok(verifier) => verifier,
        Err(what) => of("tls_client_ca", Err(what)).and(None),
    };
    let (Some(chain), Some(key), true) = (chain, key, problems.is_empty()) else {
        return Err(problems);
    };
    let (ends_at, warnings) = look_at(&chain);
    let certified = certified(chain, key, &provider, config).map_err(|problem| vec![problem])?;
    let certified = Arc::new(certified);
    let server = |protocol: &[u8]| {
        let builder = magpie_tls::server();
        let builder = match &verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let resolver = tokio_rustls::rustls::sign::SingleCertAndKey::from(Arc::clone(&certified));
        let mut server = builder.with_cert_resolver(Arc::new(resolver));
        server.alpn_protocols = vec![protocol.to_vec()];
        if verifier.is_some() {
            // Whoever resumes a session shows no certificate again: one that has expired since would be good for ever.
            server.send_tls13_tickets = 0;
            server.session_storage = Arc::new(NoServerSessionStorage {});
        } else if let Ok(ticketer) = ring::Ticketer::new() {
            // Tickets instead of a table of sessions.
            server.ticketer = ticketer;
        }
        Arc::new(server)
    };
    Ok(Loaded {
        mqtt: server(ALPN_MQTT),
        http: server(ALPN_HTTP),
        ends_at,
        warnings,
    })
}

fn required<T>(
    path: Option<&Path>,
    read: impl Fn(&Path) -> Result<T, magpie_tls::Error>,
) -> Result<Option<T>, String> {
    let path = path.ok_or("must be set, for the listeners with TLS")?;
    read(path).map(Some).map_err(|error| error.to_string())
}

fn client_verifier(
    config: &ListenerConfig,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let Some(path) = config.tls_client_ca.as_deref() else {
        return Ok(None);
    };
    let roots = authorities(path).map_err(|error| error.to_string())?;
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = match config.tls_client_cert {
        ClientCertificate::Required => builder,
        ClientCertificate::Optional => builder.allow_unauthenticated(),
    };
    builder
        .build()
        .map(Some)
        .map_err(|error| format!("{} cannot be used: {error}", path.display()))
}

/// A certificate with the key that belongs to it.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
    config: &ListenerConfig,
) -> Result<CertifiedKey, Problem> {
    let shown = |path: &Option<std::path::PathBuf>| {
        path.as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default()
    };
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            let what = format!(
                "{} is not the key of the certificate in {}",
                shown(&config.tls_key),
                shown(&config.tls_cert)
            );
            Problem::new("tls_key", what)
        }
        Error::InvalidCertificate(error) => {
            let what = format!("{} cannot be used: {error}", shown(&config.tls_cert));
            Problem::new("tls_cert", what)
        }
        error => {
            let what = format!("{} cannot be used: {error}", shown(&config.tls_key));
            Problem::new("tls_key", what)
        }
    })
}

/// When the chain ends, and what is to be said about its time.
fn look_at(chain: &[CertificateDer<'_>]) -> (Option<SystemTime>, Vec<Problem>) {
    let now = SystemTime::now();
    let mut warnings = Vec::new();
    let mut warn = |what: String| warnings.push(Problem::new("tls_cert", what));
    let mut first = None;
    for (number, certificate) in chain.iter().enumerate() {
        let which = if number == 0 {
            "the certificate"
        } else {
            "a certificate of its chain"
        };
        let Some((begins_at, ends_at)) = names::validity(certificate) else {
            warn(format!("{which} cannot be read"));
            continue;
        };
        first = Some(first.map_or(ends_at, |first| ends_at.min(first)));
        if begins_at > now {
            warn(format!("{which} is not valid yet"));
        }
        match ends_at.duration_since(now) {
            Err(_) => warn(format!("{which} has expired: clients will refuse it")),
            Ok(left) if left < ENDS_SOON => {
                let days = left.as_secs() / (24 * 3600);
                warn(format!("{which} expires in {days} days"));
            }
            Ok(_) => {}
        }
    }
    (first, warnings)
}
