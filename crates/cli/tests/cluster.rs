//! Three nodes as real processes, from the clients' side: who is connected where makes no difference, and what was acknowledged
//! arrives, also when nodes are killed. The tests are here because only this package knows where the binary is.

#![expect(clippy::unwrap_used, reason = "tests")]

mod cluster {
    mod access;
    mod enforced;
    mod faults;
    mod load;
    mod messages;
    mod nodes;
    mod rights;
    mod sessions;
    mod sys_topics;
}
