//! Fail points: named places between two steps where a test build dies at once, as by kill -9, panics, or is slow; and a wall clock that may be wrong.
//!
//! Without the feature `failpoints`, which no build but that of `tests/outer/failpoints.py` has, a fail point is no code at all and the
//! clock is the system's. With it, a process that has `FAILPOINTS_FILE` in its environment watches the file of that name. Each line of the
//! file arms one point:
//!
//! ```text
//! log.written 706870686f6e65 2 kill        at the second hit that is about these bytes (in hexadecimal), the process kills itself
//! read 706870686f6e65 1 panic              at the first, whoever comes there panics, as a bug would
//! log.written - 1 sleep 300                from the first hit on, whatever it is about, each hit takes 300 ms longer
//! ```
//!
//! Whoever comes to such a hit renames the file to `….hit`: of several processes that watch the same file, one dies.

#[cfg(feature = "failpoints")]
mod armed;

use std::time::SystemTime;

#[cfg(feature = "failpoints")]
pub use armed::{CLOCK_VARIABLE, FILE_VARIABLE, hit, is_armed};

/// A place where a test can stop the process: a name, and slices of bytes that tell what it is about. Evaluates nothing unless some point is
/// armed.
#[cfg(feature = "failpoints")]
#[macro_export]
macro_rules! fail_point {
    ($name:literal, $about:expr) => {
        if $crate::is_armed() {
            $crate::hit($name, $about);
        }
    };
}

/// A place where a test can stop the process: a name, and slices of bytes that tell what it is about. Nothing in this build.
#[cfg(not(feature = "failpoints"))]
#[macro_export]
macro_rules! fail_point {
    ($name:literal, $about:expr) => {
        if false {
            // Compiled all the same, so that it does not rot.
            let _ = $about;
        }
    };
}

/// The wall clock of this node.
#[must_use]
pub fn wall_clock() -> SystemTime {
    #[cfg(feature = "failpoints")]
    return SystemTime::now() + armed::clock_ahead();
    #[cfg(not(feature = "failpoints"))]
    SystemTime::now()
}
