//! `magpie health`: the health check of containers.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::node_http::NodeHttp;

/// Exit code 0 when the node is ready.
#[derive(Args, Debug)]
pub(crate) struct HealthArgs {
    /// The node's HTTP address
    #[arg(
        long,
        default_value = "127.0.0.1:9883",
        value_name = "ADDR:PORT",
        env = "MAGPIE_HTTP_LISTEN"
    )]
    http: String,
}

impl HealthArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let (is_ready, why) =
            NodeHttp::new(&self.http, None, Duration::from_secs(3)).readiness()?;
        if is_ready {
            println!("ready");
            return Ok(ExitCode::SUCCESS);
        }
        anyhow::bail!("not ready: {why}")
    }
}
