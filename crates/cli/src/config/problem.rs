//! What is wrong with a configuration, told all at once.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The configuration file, with the line of the key.
    File(PathBuf, usize),
    /// An environment variable.
    Variable(String),
    /// A flag, without its dashes.
    Flag(String),
    /// Nobody set it.
    Default,
}

/// One thing to repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) origin: Origin,
    /// Empty when the file as a whole is meant.
    pub(crate) key: String,
    /// What is wrong and what to do.
    pub(crate) what: String,
}

/// At least one problem, in the order of their origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl Problem {
    /// Whether the file could not be read as TOML.
    pub(crate) const fn is_of_the_whole_file(&self) -> bool {
        self.key.is_empty()
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::File(path, line) if *line > 0 => write!(f, "{}:{line}: ", path.display())?,
            Origin::File(path, _) => write!(f, "{}: ", path.display())?,
            Origin::Variable(name) => write!(f, "{name}: ")?,
            Origin::Flag(name) => write!(f, "--{name}: ")?,
            Origin::Default => {}
        }
        let names_itself = matches!(&self.origin, Origin::Variable(_) | Origin::Flag(_));
        if !self.key.is_empty() && !names_itself {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}
