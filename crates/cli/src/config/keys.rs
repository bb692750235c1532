//! The keys that can be set, with their documentation and their defaults.

use serde_json::Value;

use super::Settings;

/// `(struct, field, documentation)`, read from the source by the build script.
const FIELD_DOCS: &[(&str, &str, &str)] = include!(concat!(env!("OUT_DIR"), "/field_docs.rs"));

/// The structs behind each section, in the order of the reference. The section "" has the keys that are also flags.
pub(crate) const SECTIONS: [(&str, &str); 10] = [
    ("", "Settings"),
    ("", "ListenerConfig"),
    ("connection", "ConnectionConfig"),
    ("auth", "AuthConfig"),
    ("session", "SessionConfig"),
    ("mailbox", "MailboxConfig"),
    ("sys_topics", "SysTopicsConfig"),
    ("websocket", "WebSocketConfig"),
    ("cluster", "ClusterSettings"),
    ("http", "Limits"),
];

/// One thing that can be set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    /// Name of the TOML table; empty at the top.
    pub(crate) section: &'static str,
    /// Name in the table.
    pub(crate) name: &'static str,
    documentation: &'static str,
}

/// All keys, in the order of the sections and of the source.
pub(crate) fn known() -> impl Iterator<Item = Key> {
    SECTIONS.into_iter().flat_map(|(section, of)| {
        FIELD_DOCS
            .iter()
            .filter(move |(holder, ..)| *holder == of)
            // Without documentation: a field that holds a section.
            .filter(|(.., documentation)| !documentation.is_empty())
            .map(move |&(_, name, documentation)| Key {
                section,
                name,
                documentation,
            })
    })
}

/// The key with this path, if there is one.
pub(crate) fn find(path: &str) -> Option<Key> {
    known().find(|key| key.path() == path)
}

/// The known key that a mistyped one most likely meant.
pub(crate) fn similar(path: &str) -> Option<String> {
    known()
        .map(|key| key.path())
        .map(|known| (strsim::damerau_levenshtein(&known, path), known))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, known)| known)
        // The right name in the wrong section.
        .or_else(|| {
            let name = path.rsplit('.').next()?;
            known().find(|key| key.name == name).map(|key| key.path())
        })
}

impl Key {
    /// As in messages: `section.name`.
    pub(crate) fn path(&self) -> String {
        match self.section {
            "" => self.name.to_owned(),
            section => format!("{section}.{}", self.name),
        }
    }

    /// The environment variable: `MAGPIE_NAME`, `MAGPIE_SECTION__NAME`.
    pub(crate) fn variable(&self) -> String {
        format!("MAGPIE_{}", self.path().replace('.', "__").to_uppercase())
    }

    /// The flag without its dashes; only keys of the top have one.
    pub(crate) fn flag(&self) -> Option<String> {
        self.section.is_empty().then(|| self.name.replace('_', "-"))
    }

    /// What it means. The default is told apart, as it is, not as a comment has it.
    pub(crate) fn documentation(&self) -> &'static str {
        let end = self
            .documentation
            .find("Default")
            .unwrap_or(self.documentation.len());
        self.documentation[..end].trim_end()
    }

    /// The default as in a TOML file; `None` when it is off.
    pub(crate) fn default(&self) -> Option<Value> {
        let settings = serde_json::to_value(Settings::default())
            .expect("the settings are texts, numbers and lists");
        let table = match self.section {
            "" => &settings,
            section => settings.get(section)?,
        };
        table
            .get(self.name)
            .filter(|value| !value.is_null())
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_field_of_the_settings_is_documented_and_no_other() {
        let settings = serde_json::to_value(Settings::default()).unwrap_or_default();
        let mut fields = BTreeSet::new();
        for (name, value) in settings.as_object().into_iter().flatten() {
            match value.as_object() {
                Some(section) => fields.extend(section.keys().map(|key| format!("{name}.{key}"))),
                None => drop(fields.insert(name.clone())),
            }
        }
        assert_eq!(
            known().map(|key| key.path()).collect::<BTreeSet<_>>(),
            fields
        );
    }

    #[test]
    fn a_near_miss_is_recognised() {
        assert_eq!(similar("partitons").as_deref(), Some("partitions"));
        assert_eq!(
            similar("session.down_after").as_deref(),
            Some("cluster.down_after")
        );
        assert_eq!(similar("colour"), None);
    }
}
