//! Which nodes are started, with which flags.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};

use super::DevArgs;
use super::home::Home;

/// Who leads which group is for who looks for it.
const LOG_LEVEL: &str = "info,magpie_cluster=warn";

/// The whole cluster.
pub(super) struct Plan {
    pub(super) nodes: Vec<NodePlan>,
}

/// One node.
pub(super) struct NodePlan {
    pub(super) name: String,
    pub(super) mqtt_port: u16,
    pub(super) mqtt: String,
    pub(super) http: String,
    pub(super) cluster: String,
    program: PathBuf,
    arguments: Vec<String>,
}

impl Plan {
    /// # Errors
    /// If there are not enough ports above the base ones.
    pub(super) fn new(args: &DevArgs, home: &Home) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program does not find itself")?;
        let address = |base: u16, number: u16, flag: &str| match base.checked_add(number) {
            Some(port) if base > 0 => Ok(format!("127.0.0.1:{port}")),
            _ => bail!(
                "{flag} {base}: there are no {} ports from there; choose one from 1024 to 65000",
                args.nodes
            ),
        };
        let seeds = (0..args.nodes)
            .map(|number| address(args.cluster_port, number, "--cluster-port"))
            .collect::<Result<Vec<_>, _>>()?
            .join(",");
        let node = |number: u16| {
            let mqtt = address(args.mqtt_port, number, "--mqtt-port")?;
            let http = address(args.http_port, number, "--http-port")?;
            let cluster = address(args.cluster_port, number, "--cluster-port")?;
            let name = format!("node{}", number + 1);
            let mut arguments = vec!["start".to_owned()];
            let mut flag = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
            flag("--data-dir", home.path().join(&name).display().to_string());
            flag("--node-name", name.clone());
            flag("--mqtt-listen", mqtt.clone());
            flag("--http-listen", http.clone());
            flag("--cluster-listen", cluster.clone());
            // A single node is a cluster of its own, and can become one of three when it is started again with seeds.
            if args.nodes > 1 {
                flag("--seeds", seeds.clone());
            }
            flag(
                "--cluster-secret-file",
                home.secret_file().display().to_string(),
            );
            if !args
                .flags
                .iter()
                .any(|flag| flag.starts_with("--log-level"))
            {
                flag("--log-level", LOG_LEVEL.to_owned());
            }
            arguments.extend(args.flags.iter().cloned());
            anyhow::Ok(NodePlan {
                name,
                mqtt_port: args.mqtt_port + number,
                mqtt,
                http,
                cluster,
                program: program.clone(),
                arguments,
            })
        };
        Ok(Self {
            nodes: (0..args.nodes).map(node).collect::<Result<_, _>>()?,
        })
    }

    /// So that the logs stand in one column.
    pub(super) fn name_width(&self) -> usize {
        self.nodes
            .iter()
            .map(|node| node.name.len())
            .max()
            .unwrap_or(0)
    }
}

impl NodePlan {
    /// The command for a child of this process.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg("--stop-with-stdin");
        // The flags tell everything; variables that are meant for another node must not mix in.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MAGPIE_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// The same for a person to type.
    pub(super) fn command_line(&self) -> String {
        let quoted = |text: &str| match text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./:,=".contains(c))
        {
            true => text.to_owned(),
            false => format!("'{}'", text.replace('\'', "'\\''")),
        };
        let program = self.program.display().to_string();
        std::iter::once(program.as_str())
            .chain(self.arguments.iter().map(String::as_str))
            .map(quoted)
            .collect::<Vec<_>>()
            .join(" ")
    }
}
