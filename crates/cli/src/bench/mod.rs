//! `magpie bench`: load and its measurement.

use std::process::ExitCode;

use clap::Args;

/// Which load.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {}

impl BenchArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        anyhow::bail!("the benches are not there yet")
    }
}
