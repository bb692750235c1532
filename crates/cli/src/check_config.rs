//! `magpie check-config`: would the node start with this?

use std::process::ExitCode;

use clap::Args;

use crate::config::{ConfigArgs, NodeConfig};

/// The same file, variables and flags as for `magpie start`.
#[derive(Args, Debug)]
pub(crate) struct CheckConfigArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

impl CheckConfigArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        Ok(match NodeConfig::load(&self.config.layers()) {
            Ok(config) => {
                for warning in config.warnings {
                    eprintln!("warning: {warning}");
                }
                println!("the configuration is good");
                ExitCode::SUCCESS
            }
            Err(problems) => {
                eprintln!("{problems}");
                ExitCode::from(1)
            }
        })
    }
}
