//! When and how the node is asked to stop.

use std::io::Read as _;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// How to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// After the clients were moved.
    Drain,
    /// In order, but without waiting for anybody.
    Now,
}

/// The signals, and the parent's pipe.
pub(super) struct Stops {
    terminate: Signal,
    interrupt: Signal,
    /// `None`: standard input means nothing, or has been told of.
    stdin: Option<oneshot::Receiver<()>>,
}

impl Stops {
    /// # Errors
    /// If the system takes no handler.
    pub(super) fn new(with_stdin: bool) -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            stdin: with_stdin.then(watch_stdin),
        })
    }

    /// The next time that somebody asks.
    pub(super) async fn next(&mut self) -> Asked {
        let stdin = async {
            match &mut self.stdin {
                Some(closed) => drop(closed.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => Asked::Drain,
            _ = self.interrupt.recv() => Asked::Drain,
            () = stdin => {
                self.stdin = None;
                Asked::Now
            }
        }
    }
}

/// A thread of its own, since a read from standard input cannot be given up.
fn watch_stdin() -> oneshot::Receiver<()> {
    let (closed, watch) = oneshot::channel();
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut ignored = [0; 256];
        while stdin.read(&mut ignored).is_ok_and(|length| length > 0) {}
        // The node may have ended meanwhile.
        let _ = closed.send(());
    });
    watch
}
