//! What the source must not contain, and how its files are made.

use super::arrows::PURE;
use super::tree::{File, fail_on, files, sources};

/// Above this, a file surely has a seam that nobody looked for.
const LINES_MAX: usize = 650;

#[test]
fn pure_crates_have_no_clock_socket_task_lock_or_disk() {
    let found: Vec<String> = sources()
        .filter(|file| {
            PURE.iter()
                .any(|krate| file.path.starts_with(&format!("crates/{krate}/")))
        })
        .flat_map(|file| {
            file.with_any(&[
                "Instant::now",
                "SystemTime",
                "std::fs",
                "std::net",
                "std::io",
                "std::thread",
                "std::process",
                "std::env",
                "tokio",
                "Mutex",
                "RwLock",
                "Condvar",
                "OnceLock",
                "LazyLock",
                "thread_local!",
                "println!",
                "tracing",
            ])
        })
        .collect();
    fail_on(&found, "in a pure crate");
}

#[test]
fn no_channel_is_unbounded() {
    let found: Vec<String> = sources()
        .flat_map(|file| {
            file.with_any(&[
                "unbounded",
                "UnboundedSender",
                "mpsc::channel()",
                "std::sync::mpsc::Sender",
            ])
        })
        .collect();
    fail_on(&found, "every queue has a limit");
}

#[test]
fn nothing_is_left_for_later() {
    let texts = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
    ];
    let found: Vec<String> = files()
        .iter()
        .filter(|file| {
            [".rs", ".py", ".js", ".toml", ".proto", ".yml"]
                .iter()
                .any(|end| file.path.ends_with(end))
        })
        .flat_map(|file| {
            let lines = file.text.lines().enumerate();
            lines
                .filter(|(_, line)| texts.iter().any(|text| line.contains(text)))
                .map(|(number, line)| format!("{}:{}: {}", file.path, number + 1, line.trim()))
                .collect::<Vec<_>>()
        })
        .collect();
    fail_on(&found, "open an issue instead");
}

#[test]
fn nothing_unwraps_outside_tests() {
    let found: Vec<String> = sources()
        .flat_map(|file| file.with_any(&[".unwrap()"]))
        .collect();
    fail_on(&found, "use `?`, or `expect` with why it cannot fail");
}

#[test]
fn boxed_errors_are_nowhere_and_anyhow_at_the_rim() {
    let found: Vec<String> = sources()
        .filter(|file| !file.path.starts_with("crates/cli/"))
        .flat_map(|file| file.with_any(&["anyhow"]))
        .chain(
            sources()
                .flat_map(|file| file.with_any(&["Box<dyn Error", "Box<dyn std::error::Error"])),
        )
        .collect();
    fail_on(
        &found,
        "an error that a caller can act on is an enum of its crate",
    );
}

#[test]
fn every_file_tells_what_it_is_for() {
    let found: Vec<String> = sources()
        .filter(|file| !file.text.starts_with("//!"))
        // Test modules carry the name of what they test.
        .filter(|file| !is_test(file))
        .map(|file| file.path)
        .collect();
    fail_on(&found, "a file begins with `//!` and what it is for");
}

#[test]
fn files_are_not_too_long() {
    let found: Vec<String> = sources()
        .filter(|file| !is_test(file))
        .map(|file| {
            (
                file.text
                    .lines()
                    .take_while(|line| !line.starts_with("#[cfg(test)]"))
                    .count(),
                file.path,
            )
        })
        .filter(|(lines, _)| *lines > LINES_MAX)
        .map(|(lines, path)| format!("{path}: {lines}"))
        .collect();
    fail_on(&found, "look for the seam");
}

#[test]
fn names_tell_the_subject() {
    let empty = [
        "utils", "util", "types", "common", "helpers", "helper", "manager", "misc",
    ];
    let found: Vec<String> = sources()
        .filter(|file| {
            file.path
                .split(['/', '.'])
                .any(|part| empty.contains(&part))
        })
        .map(|file| file.path)
        .collect();
    fail_on(&found, "a type lives where its rules live");
}

#[test]
fn no_file_is_dead() {
    let all: Vec<File> = sources().collect();
    let text_of = |path: &str| {
        all.iter()
            .find(|file| file.path == path)
            .map(|file| file.text.as_str())
    };
    let found: Vec<String> = all
        .iter()
        .filter(|file| {
            let (directory, name) = file.path.rsplit_once('/').expect("a file of a crate");
            let stem = name.trim_end_matches(".rs");
            let (module, parents) = match stem {
                "main" | "lib" => return false,
                "mod" => {
                    let (above, module) =
                        directory.rsplit_once('/').expect("a directory of a crate");
                    (module, above)
                }
                module => (module, directory),
            };
            let parents = [
                format!("{parents}/lib.rs"),
                format!("{parents}/main.rs"),
                format!("{parents}.rs"),
                format!("{parents}/mod.rs"),
            ];
            let declaration = format!("mod {module};");
            !parents
                .iter()
                .filter_map(|path| text_of(path))
                .any(|text| text.contains(&declaration))
        })
        .map(|file| file.path.clone())
        .collect();
    fail_on(&found, "no `mod` names it");
}

#[test]
fn nothing_names_a_machine() {
    let texts = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/."),
        concat!("/ho", "me/"),
    ];
    let found: Vec<String> = files()
        .iter()
        // The builder image is a machine of its own.
        .filter(|file| file.path != ".ci/images")
        .flat_map(|file| {
            let lines = file.text.lines().enumerate();
            lines
                .filter(|(_, line)| texts.iter().any(|text| line.contains(text)))
                .map(|(number, _)| format!("{}:{}", file.path, number + 1))
                .collect::<Vec<_>>()
        })
        .collect();
    fail_on(&found, "paths of one machine");
}

fn is_test(file: &File) -> bool {
    file.path.contains("/tests/") || file.path.ends_with("tests.rs")
}
