//! Where the data of the nodes is, and the secret that they share.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::TempDir;

/// A directory that stays, or one that goes when this value does.
pub(super) struct Home {
    path: PathBuf,
    temporary: Option<TempDir>,
}

impl Home {
    /// Creates what is absent.
    ///
    /// # Errors
    /// If that is not possible.
    pub(super) fn open(chosen: Option<&Path>) -> anyhow::Result<Self> {
        let home = match chosen {
            Some(path) => {
                let what = || format!("the data directory {} cannot be used", path.display());
                fs::create_dir_all(path).with_context(what)?;
                Self {
                    path: path.canonicalize().with_context(what)?,
                    temporary: None,
                }
            }
            None => {
                let temporary = tempfile::Builder::new()
                    .prefix("magpie-dev-")
                    .tempdir()
                    .context("a temporary directory cannot be made; name one with --data-dir")?;
                Self {
                    path: temporary.path().to_owned(),
                    temporary: Some(temporary),
                }
            }
        };
        home.ensure_secret()?;
        Ok(home)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) const fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    pub(super) fn secret_file(&self) -> PathBuf {
        self.path.join("cluster-secret")
    }

    fn ensure_secret(&self) -> anyhow::Result<()> {
        let path = self.secret_file();
        let what = || format!("the cluster's secret {} cannot be written", path.display());
        if path.exists() {
            return fs::set_permissions(&path, Permissions::from_mode(0o600)).with_context(what);
        }
        let mut random = [0; 24];
        getrandom::fill(&mut random).context("the system gives no random numbers")?;
        let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(what)?;
        writeln!(file, "{secret}").with_context(what)
    }
}
