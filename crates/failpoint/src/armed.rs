//! What is armed, in test builds.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use std::{env, fs, thread};

/// The variable of the environment that names the file with the armed points.
pub const FILE_VARIABLE: &str = "FAILPOINTS_FILE";
/// The variable of the environment that says by how many seconds this node's wall clock is ahead.
pub const CLOCK_VARIABLE: &str = "CLOCK_AHEAD_S";

const LOOK_EVERY: Duration = Duration::from_millis(2);

static IS_ARMED: AtomicBool = AtomicBool::new(false);
static POINTS: Mutex<Vec<Point>> = Mutex::new(Vec::new());
static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
static CLOCK_AHEAD: OnceLock<Duration> = OnceLock::new();

/// A line of the file.
#[derive(Debug, PartialEq, Eq)]
struct Point {
    name: String,
    about: Vec<u8>,
    /// Hits to come, this one included.
    hits_left: u32,
    action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Kill,
    Panic,
    Sleep(Duration),
}

/// Whether any point is armed. The first call begins to watch the file.
#[must_use]
pub fn is_armed() -> bool {
    FILE.get_or_init(|| {
        let file = PathBuf::from(env::var_os(FILE_VARIABLE)?);
        load(&file, &mut String::new());
        let watched = file.clone();
        thread::spawn(move || {
            let mut before = fs::read_to_string(&watched).unwrap_or_default();
            loop {
                thread::sleep(LOOK_EVERY);
                load(&watched, &mut before);
            }
        });
        Some(file)
    });
    IS_ARMED.load(Ordering::Relaxed)
}

/// The process came to a point.
pub fn hit<T: AsRef<[u8]>>(name: &str, about: impl IntoIterator<Item = T>) {
    let mut points = points();
    let Some(point) = points.iter_mut().find(|point| point.name == name) else {
        return;
    };
    let wanted = point.about.as_slice();
    let is_about = |part: T| {
        let part = part.as_ref();
        wanted.is_empty() || part.windows(wanted.len()).any(|window| window == wanted)
    };
    if !about.into_iter().any(is_about) {
        return;
    }
    point.hits_left = point.hits_left.saturating_sub(1);
    if point.hits_left > 0 {
        return;
    }
    let action = point.action;
    drop(points);
    let Some(Some(file)) = FILE.get() else { return };
    let mut mark = file.clone().into_os_string();
    mark.push(".hit");
    match action {
        Action::Kill if fs::rename(file, &mark).is_ok() => {
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
            // The signal is on its way to every thread.
            loop {
                thread::sleep(LOOK_EVERY);
            }
        }
        Action::Panic if fs::rename(file, &mark).is_ok() => panic!("fail point {name}"),
        // Another process was quicker.
        Action::Kill | Action::Panic => IS_ARMED.store(false, Ordering::Relaxed),
        Action::Sleep(time) => {
            let _ = fs::copy(file, &mark);
            thread::sleep(time);
        }
    }
}

/// By how much the wall clock is wrong.
pub(crate) fn clock_ahead() -> Duration {
    *CLOCK_AHEAD.get_or_init(|| {
        let seconds = env::var(CLOCK_VARIABLE).ok();
        Duration::from_secs(seconds.and_then(|it| it.parse().ok()).unwrap_or(0))
    })
}

fn load(file: &Path, before: &mut String) {
    let text = fs::read_to_string(file).unwrap_or_default();
    if text == *before {
        return;
    }
    let read: Vec<Point> = text.lines().filter_map(parse).collect();
    IS_ARMED.store(!read.is_empty(), Ordering::Relaxed);
    *points() = read;
    *before = text;
}

fn parse(line: &str) -> Option<Point> {
    let mut words = line.split_whitespace();
    let (name, about, hits) = (words.next()?, words.next()?, words.next()?);
    let action = match words.next()? {
        "kill" => Action::Kill,
        "panic" => Action::Panic,
        "sleep" => Action::Sleep(Duration::from_millis(words.next()?.parse().ok()?)),
        _ => return None,
    };
    let bytes = (0..about.len() / 2)
        .map_while(|at| u8::from_str_radix(about.get(2 * at..2 * at + 2)?, 16).ok());
    Some(Point {
        name: name.to_owned(),
        about: bytes.collect(),
        hits_left: hits.parse().ok()?,
        action,
    })
}

fn points() -> MutexGuard<'static, Vec<Point>> {
    POINTS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_line_arms_a_point() {
        let kill = parse("log.written 6162 2 kill").unwrap();
        assert_eq!(
            (kill.about.as_slice(), kill.hits_left, kill.action),
            (b"ab".as_slice(), 2, Action::Kill)
        );
        let slow = parse("log.written - 1 sleep 300").unwrap();
        assert_eq!(slow.action, Action::Sleep(Duration::from_millis(300)));
        assert!(slow.about.is_empty());
        let bug = parse("read 6162 1 panic").unwrap();
        assert_eq!(bug.action, Action::Panic);
        assert_eq!(parse("log.written 6162 2 sing"), None);
        assert_eq!(parse(""), None);
    }
}
