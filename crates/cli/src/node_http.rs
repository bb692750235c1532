//! A node's HTTP API, from the outside.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::Response;
use ureq::{Agent, RequestBuilder};

/// How something is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Method {
    Post,
    Put,
}

/// Which node, and what it may ask for.
#[derive(Args, Debug, Clone)]
pub(crate) struct HttpArgs {
    /// The node's HTTP address
    #[arg(
        long,
        global = true,
        default_value = "127.0.0.1:9883",
        value_name = "ADDR:PORT",
        env = "MAGPIE_HTTP_LISTEN"
    )]
    pub(crate) http: String,
    /// File with the API token; or set MAGPIE_API_TOKEN
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "MAGPIE_API_TOKEN_FILE"
    )]
    token_file: Option<PathBuf>,
}

/// One node.
#[derive(Clone)]
pub(crate) struct NodeHttp {
    address: String,
    token: Option<String>,
    agent: Agent,
}

impl HttpArgs {
    /// # Errors
    /// If the token's file cannot be read.
    pub(crate) fn node(&self) -> anyhow::Result<NodeHttp> {
        let token = match &self.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("{} cannot be read", path.display()))?;
                Some(text.trim_end_matches(['\r', '\n']).to_owned())
            }
            None => std::env::var("MAGPIE_API_TOKEN")
                .ok()
                .filter(|token| !token.is_empty()),
        };
        Ok(NodeHttp::new(&self.http, token, Duration::from_secs(15)))
    }
}

impl NodeHttp {
    pub(crate) fn new(address: &str, token: Option<String>, timeout: Duration) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            // Nodes are near; a proxy of the environment is for the web.
            .proxy(None)
            .build();
        Self {
            address: reachable(address),
            token,
            agent: config.into(),
        }
    }

    /// The same credentials for another node.
    pub(crate) fn at(&self, address: &str) -> Self {
        Self {
            address: reachable(address),
            ..self.clone()
        }
    }

    /// Whether `/readyz` answers 200, and what it says.
    ///
    /// # Errors
    /// If nothing answers.
    pub(crate) fn readiness(&self) -> anyhow::Result<(bool, String)> {
        let mut response = self
            .agent
            .get(self.url("/readyz"))
            .call()
            .map_err(|error| self.unreachable(&error))?;
        let text = response.body_mut().read_to_string().unwrap_or_default();
        Ok((response.status() == 200, text.trim().to_owned()))
    }

    /// A resource of the API.
    ///
    /// # Errors
    /// If nothing answers, or with the API's own sentence.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let request = self.agent.get(self.url(&format!("/api/v1{path}")));
        let mut response = self.accepted(self.authorized(request).call())?;
        response
            .body_mut()
            .read_json()
            .with_context(|| format!("{} gave an answer of another version", self.address))
    }

    /// Deletes a resource; false if there is none.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) fn delete(&self, path: &str) -> anyhow::Result<bool> {
        Ok(self.delete_told(path)?.is_some())
    }

    /// Deletes a resource; gives what the API answers, `null` for nothing, or `None` if there is none.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) fn delete_told(&self, path: &str) -> anyhow::Result<Option<serde_json::Value>> {
        let request = self.agent.delete(self.url(&format!("/api/v1{path}")));
        let answer = self.authorized(request).call();
        if matches!(&answer, Ok(response) if response.status() == 404) {
            return Ok(None);
        }
        let mut response = self.accepted(answer)?;
        Ok(Some(response.body_mut().read_json().unwrap_or_default()))
    }

    /// Asks for something to be done.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) fn post(&self, path: &str) -> anyhow::Result<()> {
        let request = self.agent.post(self.url(&format!("/api/v1{path}")));
        self.accepted(self.authorized(request).send_empty())
            .map(drop)
    }

    /// Sends JSON: `POST` to add something, `PUT` to set it. Gives what the API answers, `null` for nothing.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) fn send(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<serde_json::Value> {
        let url = self.url(&format!("/api/v1{path}"));
        let request = match method {
            Method::Post => self.agent.post(url),
            Method::Put => self.agent.put(url),
        };
        let mut response = self.accepted(self.authorized(request).send_json(body))?;
        Ok(response.body_mut().read_json().unwrap_or_default())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn authorized<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn accepted(
        &self,
        answer: Result<Response<ureq::Body>, ureq::Error>,
    ) -> anyhow::Result<Response<ureq::Body>> {
        let mut response = answer.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body: serde_json::Value = response.body_mut().read_json().unwrap_or_default();
        let sentence = body["error"]
            .as_str()
            .map_or_else(|| format!("answered {status}"), ToOwned::to_owned);
        match status.as_u16() {
            401 => bail!(
                "{}: the API token is missing or wrong: use --token-file or MAGPIE_API_TOKEN",
                self.address
            ),
            _ => bail!("{}: {sentence}", self.address),
        }
    }

    fn unreachable(&self, error: &ureq::Error) -> anyhow::Error {
        anyhow::anyhow!(
            "no node answers at http://{} ({error}); is it running, and is --http its address?",
            self.address
        )
    }
}

/// As a path segment of a URL.
pub(crate) fn segment(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte))
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// Where a node that listens on all addresses is reached from its own machine.
fn reachable(address: &str) -> String {
    let address = address
        .strip_prefix("http://")
        .unwrap_or(address)
        .trim_end_matches('/');
    let address = address
        .replace("0.0.0.0:", "127.0.0.1:")
        .replace("[::]:", "[::1]:");
    if address.contains(':') {
        address
    } else {
        format!("{address}:9883")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_completed() {
        assert_eq!(reachable("0.0.0.0:9884"), "127.0.0.1:9884");
        assert_eq!(reachable("[::]:9884"), "[::1]:9884");
        assert_eq!(reachable("http://n1:1/"), "n1:1");
        assert_eq!(reachable("n1"), "n1:9883");
    }

    #[test]
    fn a_client_id_fits_into_a_path() {
        assert_eq!(segment("a/b c?ä"), "a%2Fb%20c%3F%C3%A4");
    }
}
