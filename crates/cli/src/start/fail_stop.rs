//! A panic is a bug, and a process that lost a task is half dead: it ends as a whole, and says where.

use std::panic::PanicHookInfo;

use tracing::error;

/// From now on a panic anywhere, in any kind of build, ends the process with `code`.
pub(super) fn install(code: u8) {
    std::panic::set_hook(Box::new(move |info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let what = message(info);
        error!(place, what, "panicked, the node stops itself");
        eprintln!(
            "magpie: a bug: {what} at {place}\n{}",
            std::backtrace::Backtrace::capture()
        );
        std::process::exit(i32::from(code));
    }));
}

fn message<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = info.payload();
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
