//! Requests to web services: connections are kept and used again, answers are bounded, redirections are not followed.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::Error;

/// The largest answer.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How long a connection that nobody uses is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A client of web services. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Web {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Web {
    /// `ca_file`: who vouches for the services, instead of those whom the system trusts.
    pub(crate) fn new(ca_file: Option<&Path>) -> Result<Self, Error> {
        let wrong = |what: String| Error::Value {
            key: "ca_file",
            what,
        };
        let builder = HttpsConnectorBuilder::new();
        let builder = match ca_file {
            Some(path) => {
                let roots = magpie_tls::authorities(path);
                let roots = roots.map_err(|error| wrong(error.to_string()))?;
                let config = magpie_tls::client().with_root_certificates(roots);
                builder.with_tls_config(config.with_no_client_auth())
            }
            None => builder
                .with_provider_and_native_roots(magpie_tls::provider())
                .map_err(|error| {
                    wrong(format!(
                        "the system's trusted certificates cannot be read ({error}); name a file"
                    ))
                })?,
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let connector = builder.https_or_http().enable_http1().wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        Ok(Self { client })
    }

    /// The content of a page. The caller sets a time limit.
    ///
    /// # Errors
    /// What went wrong, for the log.
    pub(crate) async fn get(&self, url: &str) -> Result<Bytes, String> {
        let (status, body) = self.ask(Method::GET, url, None, Bytes::new()).await?;
        match status {
            StatusCode::OK => Ok(body),
            status => Err(format!("answered {status}")),
        }
    }

    /// Status and content of the answer to a JSON document. The caller sets a time limit.
    ///
    /// # Errors
    /// What went wrong, for the log.
    pub(crate) async fn post(
        &self,
        url: &str,
        authorization: Option<HeaderValue>,
        document: Bytes,
    ) -> Result<(StatusCode, Bytes), String> {
        self.ask(Method::POST, url, authorization, document).await
    }

    async fn ask(
        &self,
        method: Method,
        url: &str,
        authorization: Option<HeaderValue>,
        document: Bytes,
    ) -> Result<(StatusCode, Bytes), String> {
        let mut request = Request::builder().method(method).uri(url);
        if !document.is_empty() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request
            .body(Full::new(document))
            .map_err(|error| error.to_string())?;
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| explain(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    }
}

/// With its causes, of which the last one says most.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Whether a text is the address of a web service.
pub(crate) fn is_url(text: &str) -> bool {
    text.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
    })
}
