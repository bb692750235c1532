//! A user name from the certificate that a client showed, and that the listener has verified.

use serde::{Deserialize, Serialize};

/// The names in a client's certificate, as far as they are UTF-8.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateNames {
    /// The Common Name of the subject, the last if there are several.
    pub common_name: Option<String>,
    /// Alternative names that are DNS names.
    pub dns_names: Vec<String>,
    /// Alternative names that are URIs.
    pub uris: Vec<String>,
    /// Alternative names that are mail addresses.
    pub emails: Vec<String>,
}

/// Which name is the user name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NameSource {
    /// Common Name of the subject.
    Cn,
    /// The first host name.
    Dns,
    /// The first URI.
    Uri,
    /// The first mail address.
    Email,
}

impl CertificateNames {
    /// The user name; never empty.
    pub(crate) fn username(&self, source: NameSource) -> Option<&str> {
        let name = match source {
            NameSource::Cn => self.common_name.as_ref(),
            NameSource::Dns => self.dns_names.first(),
            NameSource::Uri => self.uris.first(),
            NameSource::Email => self.emails.first(),
        };
        name.map(String::as_str).filter(|name| !name.is_empty())
    }
}
