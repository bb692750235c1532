//! One descriptor per client: as many as the system lets this process have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// Below this, clients of an ordinary installation run into the limit.
const FEW: u64 = 8192;

/// Raises the soft limit of open files to the hard limit.
pub(super) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => debug!(from = current, to = maximum, "limit of open files raised"),
        Err(error) => warn!(%error, limit = current, "the limit of open files stays"),
    }
    if maximum.is_some_and(|limit| limit < FEW) {
        warn!(
            limit = maximum,
            "the limit of open files is low, each client needs one; raise it with ulimit -n or LimitNOFILE"
        );
    }
}
