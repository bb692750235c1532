//! The configuration of a node: one [`Settings`] from defaults, a file, the environment and flags, each layer above the one before.
//!
//! What can be set is what `Settings` holds; flags, variables, `--help` and `docs/configuration.md` follow from it. `magpie start` and
//! `magpie check-config` run the same code, which tells all problems at once.

mod cluster_settings;
mod flags;
mod keys;
mod layers;
mod node_config;
mod problem;
mod reference;
mod secrets;
mod settings;
mod toml_file;

pub(crate) use flags::ConfigArgs;
pub(crate) use node_config::NodeConfig;
pub(crate) use reference::reference;
pub(crate) use settings::{LogFormat, Settings};
