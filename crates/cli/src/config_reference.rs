//! `magpie config-reference`: prints `docs/configuration.md`.

use std::process::ExitCode;

use clap::Args;

/// Takes nothing.
#[derive(Args, Debug)]
pub(crate) struct ConfigReferenceArgs {}

impl ConfigReferenceArgs {
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "the shape of all commands"
    )]
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        print!("{}", crate::config::reference());
        Ok(ExitCode::SUCCESS)
    }
}
