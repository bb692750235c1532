//! Secrets: from a file or from the environment, never from a flag that other users of the machine could read.

use std::path::Path;

/// A secret. It has no `Debug`, so that no log can show it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// The secret itself.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

/// The secret from `file` or from the environment variable's text; `None` if neither is set.
///
/// # Errors
/// In words for the operator: both are set, the file cannot be read, or there is nothing in it.
pub(crate) fn find(
    file: Option<&Path>,
    variable: &str,
    text: Option<&str>,
) -> Result<Option<Secret>, String> {
    let (place, text) = match (file, text) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(format!(
                "{variable} is set as well; set only one of the two"
            ));
        }
        (None, Some(text)) => (variable.to_owned(), text.to_owned()),
        (Some(path), None) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
            (path.display().to_string(), text)
        }
    };
    // Editors and `echo` end a file with a line feed that nobody means.
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(format!("{place} is empty"));
    }
    Ok(Some(Secret(secret.to_owned())))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_secret_comes_from_one_place() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        std::fs::write(&file, "magpies remember\n").unwrap();
        let check = |file: Option<&Path>, text: Option<&str>| {
            find(file, "MAGPIE_X", text)
                .map(|secret| secret.map(|secret| secret.reveal().to_owned()))
        };
        assert_eq!(check(None, None), Ok(None));
        assert_eq!(check(None, Some("a")), Ok(Some("a".to_owned())));
        assert_eq!(
            check(Some(&file), None),
            Ok(Some("magpies remember".to_owned()))
        );
        assert!(
            check(Some(&file), Some("a"))
                .unwrap_err()
                .contains("only one")
        );
        assert_eq!(check(None, Some("\n")).unwrap_err(), "MAGPIE_X is empty");
        std::fs::write(&file, "\n").unwrap();
        assert!(check(Some(&file), None).unwrap_err().ends_with("is empty"));
        assert!(
            check(Some(&directory.path().join("absent")), None)
                .unwrap_err()
                .contains("cannot be read")
        );
    }
}
