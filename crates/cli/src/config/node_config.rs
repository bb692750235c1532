//! From settings to what each part of the node takes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use tracing_subscriber::EnvFilter;

use super::cluster_settings::ClusterSettings;
use super::layers::{self, Layered, Layers};
use super::problem::{Problem, Problems};
use super::secrets::{self, Secret};
use super::{LogFormat, Settings};

/// A configuration that can be started, as far as one can tell before.
pub(crate) struct NodeConfig {
    pub(crate) cluster: magpie_cluster::Config,
    pub(crate) broker: magpie_broker::Config,
    pub(crate) http: magpie_admin::Config,
    pub(crate) audit_log: Option<PathBuf>,
    pub(crate) log_format: LogFormat,
    pub(crate) log_level: String,
    /// What should be looked at, although the node can start with it.
    pub(crate) warnings: Vec<Problem>,
}

impl NodeConfig {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// All problems at once, those of the form first.
    pub(crate) fn load(layers: &Layers) -> Result<Self, Problems> {
        let (layered, mut problems) = layers::merge(layers);
        if problems.iter().any(Problem::is_of_the_whole_file) {
            // Without the file, what else could be said would mislead.
            return Err(Problems(problems));
        }
        let variable = |name: &str| {
            layers
                .variables
                .iter()
                .find(|(set, _)| set == name)
                .map(|(_, text)| text.as_str())
        };
        let settings = &layered.settings;
        let mut secret = |key: &str, file: &Option<_>, name: &str| {
            secrets::find(Option::as_deref(file), name, variable(name)).unwrap_or_else(|what| {
                problems.push(layered.locate(key, what));
                None
            })
        };
        let cluster_secret = secret(
            "cluster_secret_file",
            &settings.cluster_secret_file,
            "MAGPIE_CLUSTER_SECRET",
        );
        let api_token = secret(
            "api_token_file",
            &settings.api_token_file,
            "MAGPIE_API_TOKEN",
        );
        let secret_failed = problems
            .iter()
            .any(|problem| problem.key == "cluster_secret_file");

        let mut config = Self::new(settings, cluster_secret.as_ref(), api_token);
        let mut found = config.problems(settings, &layered);
        // Said already, and better.
        found.retain(|problem| !(secret_failed && problem.key == "cluster_secret_file"));
        problems.extend(found);
        if problems.is_empty() {
            let warnings = config.broker.warnings().into_iter();
            config.warnings = warnings
                .map(|warning| layered.locate(&warning.key, warning.what))
                .collect();
            Ok(config)
        } else {
            Err(Problems(problems))
        }
    }

    fn new(
        settings: &Settings,
        cluster_secret: Option<&Secret>,
        api_token: Option<Secret>,
    ) -> Self {
        let advertise = settings
            .cluster_advertise
            .clone()
            .unwrap_or_else(|| settings.cluster_listen.to_string());
        // What the others are told of a listener on all addresses: the host under which they know this node.
        let host = advertise
            .rsplit_once(':')
            .map_or(advertise.as_str(), |(host, _)| host);
        let seen = |address: SocketAddr| match address.ip().is_unspecified() {
            true => format!("{host}:{}", address.port()),
            false => address.to_string(),
        };
        let mut cluster = magpie_cluster::Config {
            data_dir: settings.data_dir.clone(),
            node_name: settings.node_name.clone(),
            cluster_listen: settings.cluster_listen.to_string(),
            http_addr: seen(settings.http_listen),
            mqtt_addr: settings.listener.mqtt_listen.map(seen).unwrap_or_default(),
            cluster_advertise: advertise.clone(),
            seeds: settings.seeds.clone(),
            tls: cluster_tls(settings),
            cluster_secret: cluster_secret.map(|secret| secret.reveal().to_owned()),
            partitions: settings.partitions,
            replication_factor: settings.replication_factor,
            direct_filters: settings.direct_filters.clone(),
            publish_deadline: settings.session.publish_deadline,
            ..magpie_cluster::Config::default()
        };
        settings.cluster.apply(&mut cluster);
        Self {
            cluster,
            broker: magpie_broker::Config {
                listener: settings.listener.clone(),
                connection: settings.connection.clone(),
                session: settings.session.clone(),
                auth: settings.auth.clone(),
                mailbox: settings.mailbox.clone(),
                sys_topics: settings.sys_topics.clone(),
                websocket: settings.websocket.clone(),
            },
            http: magpie_admin::Config {
                listen: settings.http_listen,
                token: api_token.map(|token| magpie_admin::Token::new(token.reveal())),
                limits: settings.http.clone(),
            },
            audit_log: settings.audit_log.clone(),
            log_format: settings.log_format,
            log_level: settings.log_level.clone(),
            warnings: Vec::new(),
        }
    }

    /// What is wrong although each value alone could be right.
    fn problems(&self, settings: &Settings, layered: &Layered) -> Vec<Problem> {
        let mut problems = Vec::new();
        for problem in self.cluster.problems() {
            let key = match ClusterSettings::has(problem.key) {
                true => format!("cluster.{}", problem.key),
                false => problem.key.to_owned(),
            };
            problems.push(layered.locate(&key, problem.problem));
        }
        for problem in self.broker.problems() {
            problems.push(layered.locate(&problem.key, problem.what));
        }
        let mut wrong = |key: &str, what: String| problems.push(layered.locate(key, what));
        if EnvFilter::try_new(&self.log_level).is_err() {
            let what = format!(
                "\"{}\" is no log level; write one like info, or info,magpie_cluster=debug",
                self.log_level
            );
            wrong("log_level", what);
        }
        if settings.node_name.is_empty() {
            wrong(
                "node_name",
                "is empty; leave it out to use the host name".to_owned(),
            );
        }
        for (key, what) in settings.http.problems() {
            wrong(&format!("http.{key}"), what.to_owned());
        }
        let tls = [
            ("cluster_tls_cert", &settings.cluster_tls_cert),
            ("cluster_tls_key", &settings.cluster_tls_key),
            ("cluster_tls_ca", &settings.cluster_tls_ca),
        ];
        if tls.iter().any(|(_, path)| path.is_some()) {
            for (key, _) in tls.iter().filter(|(_, path)| path.is_none()) {
                wrong(key, "must be set as well, for TLS between nodes".to_owned());
            }
        }
        for seed in &settings.seeds {
            if let Err(what) = check_host_port(seed) {
                wrong("seeds", format!("\"{seed}\" {what}"));
            }
        }
        match &settings.cluster_advertise {
            Some(advertise) => {
                if let Err(what) = check_host_port(advertise) {
                    wrong("cluster_advertise", format!("\"{advertise}\" {what}"));
                }
            }
            None if !settings.seeds.is_empty() && settings.cluster_listen.ip().is_unspecified() => {
                let what = format!(
                    "must be set, because other nodes cannot dial {}: the name or address and the port under which they reach this node",
                    settings.cluster_listen
                );
                wrong("cluster_advertise", what);
            }
            None => {}
        }
        for (key, what) in address_clashes(settings) {
            wrong(key, what);
        }
        problems
    }
}

/// If all of it is set; part of it is a problem.
fn cluster_tls(settings: &Settings) -> Option<magpie_cluster::TlsFiles> {
    Some(magpie_cluster::TlsFiles {
        certificate: settings.cluster_tls_cert.clone()?,
        key: settings.cluster_tls_key.clone()?,
        authority: settings.cluster_tls_ca.clone()?,
    })
}

/// Listeners that would take each other's port.
fn address_clashes(settings: &Settings) -> Vec<(&'static str, String)> {
    let [mqtt, others @ ..] = settings.listener.addresses();
    let listeners = [
        mqtt,
        ("cluster_listen", Some(settings.cluster_listen)),
        ("http_listen", Some(settings.http_listen)),
    ];
    let listeners = listeners.into_iter().chain(others);
    let mut taken: BTreeMap<(u16, IpAddr), &str> = BTreeMap::new();
    let mut clashes = Vec::new();
    for (key, address) in listeners {
        let Some(address) = address.filter(|address| address.port() != 0) else {
            continue;
        };
        match taken.insert((address.port(), address.ip()), key) {
            // The broker's own check tells of its two.
            Some(other) if !(other == "mqtt_listen" && key == "mqtt_plain_listen") => {
                clashes.push((
                    key,
                    format!("{address} is also {other}; give each its own port"),
                ));
            }
            _ => {}
        }
    }
    clashes
}

fn check_host_port(text: &str) -> Result<(), &'static str> {
    let (host, port) = text
        .rsplit_once(':')
        .ok_or("has no port; write HOST:PORT")?;
    if host.is_empty() {
        return Err("has no host; write HOST:PORT");
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(()),
        _ => Err("has no valid port; write HOST:PORT with a port from 1 to 65535"),
    }
}

#[cfg(test)]
mod tests;
