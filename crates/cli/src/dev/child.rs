//! One node's process: its log, its end, and that it never outlives this one.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{self, Command};
use tokio::sync::{mpsc, oneshot};

use super::paint::{Paint, say};
use super::plan::NodePlan;

/// How long a child may take to stop in order; then it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(8);

/// A running node. It stops when this value is dropped, and also when this process is killed: either way its standard input closes.
pub(super) struct Child {
    /// Of the process; `None` if it ended at once.
    pub(super) pid: Option<u32>,
    _stop: oneshot::Sender<()>,
}

/// The end of a node.
pub(super) struct Ended {
    pub(super) name: String,
    pub(super) status: std::io::Result<ExitStatus>,
}

impl Child {
    /// Starts the node; its log is printed with its name before each line, its end goes to `ended`.
    ///
    /// # Errors
    /// If the system starts no process.
    pub(super) fn start(
        node: &NodePlan,
        prefix: String,
        paint: Paint,
        ended: mpsc::Sender<Ended>,
    ) -> anyhow::Result<Self> {
        let mut command = Command::from(node.command());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C on the terminal is for this process, which then stops its children.
            .process_group(0)
            .kill_on_drop(true);
        if paint.is_on() {
            command.env("CLICOLOR_FORCE", "1");
        }
        let mut child = command
            .spawn()
            .with_context(|| format!("{} cannot be started", node.name))?;
        let pid = child.id();
        let (stop, stopped) = oneshot::channel();
        let logs = print_both(&mut child, prefix);
        let name = node.name.clone();
        tokio::spawn(async move {
            let (status, ()) = tokio::join!(wait(child, stopped), logs);
            // The receiver is gone when everything ends at once.
            let _ = ended.send(Ended { name, status }).await;
        });
        Ok(Self { pid, _stop: stop })
    }
}

/// Until the process ends by itself, or is stopped.
async fn wait(
    mut child: process::Child,
    stopped: oneshot::Receiver<()>,
) -> std::io::Result<ExitStatus> {
    // `wait` would close it, and the node takes that for the wish to stop.
    let stdin = child.stdin.take();
    tokio::select! {
        status = child.wait() => return status,
        _ = stopped => drop(stdin),
    }
    match tokio::time::timeout(STOP_PATIENCE, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            child.start_kill()?;
            child.wait().await
        }
    }
}

fn print_both(child: &mut process::Child, prefix: String) -> impl Future<Output = ()> + use<> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    async move {
        tokio::join!(print(stdout, &prefix), print(stderr, &prefix));
    }
}

/// Copies lines until the pipe closes.
async fn print(pipe: Option<impl AsyncRead + Unpin>, prefix: &str) {
    let Some(pipe) = pipe else { return };
    let mut lines = BufReader::new(pipe).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        say(&format!("{prefix} {}", String::from_utf8_lossy(&line)));
    }
}
