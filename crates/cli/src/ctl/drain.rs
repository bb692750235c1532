//! `ctl drain`.

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use serde_json::json;

use super::status::Status;
use crate::node_http::NodeHttp;

/// How long to look on.
#[derive(Args, Debug)]
pub(super) struct DrainArgs {
    /// Seconds to wait until the node is empty
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
}

impl DrainArgs {
    pub(super) fn run(&self, node: &NodeHttp, json: bool) -> anyhow::Result<()> {
        node.post("/drain")?;
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
        loop {
            let status: Status = node.get("/status")?;
            let leads = status.groups.iter().filter(|group| group.leading).count();
            if status.draining && status.clients == 0 && leads == 0 {
                if json {
                    println!("{:#}", json!({ "drained": status.node_name }));
                } else {
                    println!(
                        "{} is drained and serves nobody until it is started again; stop it now",
                        status.node_name
                    );
                }
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "{} still has {} clients and leads {leads} groups",
                    status.node_name,
                    status.clients
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}
