//! The files of the repository.

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the repository, as text.
pub(super) struct File {
    /// From the root of the repository, with `/`.
    pub(super) path: String,
    pub(super) text: String,
}

/// The root of the repository: of the one that the test runs in, since what was built in another clone may be used again.
pub(super) fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    Path::new(&package)
        .parent()
        .expect("this package is one level below the root")
        .to_owned()
}

/// Every text file, those left out that are not the repository's: builds, data, hidden directories but our own.
pub(super) fn files() -> Vec<File> {
    let mut files = Vec::new();
    collect(&root(), &root(), &mut files);
    assert!(files.len() > 100, "this is not the whole tree");
    files
}

/// Every file of Rust under `crates/*/src`.
pub(super) fn sources() -> impl Iterator<Item = File> {
    files()
        .into_iter()
        .filter(|file| file.path.starts_with("crates/") && file.path.contains("/src/"))
        .filter(|file| file.path.ends_with(".rs"))
}

/// Fails with all of them, if there are any.
pub(super) fn fail_on(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

fn collect(root: &Path, directory: &Path, files: &mut Vec<File>) {
    // What another process makes here meanwhile may be gone again.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours = !name.starts_with('.')
            || [".ci", ".dockerignore", ".gitignore"].contains(&name.as_str());
        let is_made = ["target", "data", "node_modules", "__pycache__"].contains(&name.as_str());
        if !is_ours || is_made {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, files);
        } else if let Ok(text) = fs::read_to_string(&path) {
            let path = path.strip_prefix(root).expect("below the root");
            files.push(File {
                path: path.to_string_lossy().into_owned(),
                text,
            });
        }
    }
}

impl File {
    /// Numbered lines of code: without comments and, in a file of Rust, without what only tests see.
    pub(super) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test = self.path.contains("/tests/")
            || self.path.ends_with("tests.rs")
            || self.path.contains("/benches/");
        let lines = self.text.lines().enumerate();
        lines
            // By convention tests come last in a file.
            .take_while(move |(_, line)| !is_test && !line.starts_with("#[cfg(test)]"))
            .map(|(number, line)| (number + 1, line.trim_start()))
            .filter(|(_, line)| !line.starts_with("//"))
    }

    /// The lines of code with one of these texts.
    pub(super) fn with_any(&self, texts: &[&str]) -> Vec<String> {
        self.code()
            .filter(|(_, line)| texts.iter().any(|text| line.contains(text)))
            .map(|(number, line)| format!("{}:{number}: {line}", self.path))
            .collect()
    }
}
