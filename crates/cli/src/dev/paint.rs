//! Colours, if standard output is a terminal that is not asked for none.

use std::io::IsTerminal;

/// Gives each node a colour of its own.
#[derive(Clone, Copy)]
pub(super) struct Paint {
    is_on: bool,
}

/// Distinct on dark and light grounds; red is for trouble.
const NODE_COLOURS: [&str; 5] = ["36", "35", "32", "34", "33"];

impl Paint {
    pub(super) fn of_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            is_on: !refused && std::io::stdout().is_terminal(),
        }
    }

    pub(super) const fn is_on(self) -> bool {
        self.is_on
    }

    pub(super) fn node(self, number: usize, text: &str) -> String {
        self.wrap(NODE_COLOURS[number % NODE_COLOURS.len()], text)
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(super) fn good(self, text: &str) -> String {
        self.wrap("1;32", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.is_on {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Prints a line. Whoever read it may be gone, which ends nothing.
pub(super) fn say(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{line}");
}
