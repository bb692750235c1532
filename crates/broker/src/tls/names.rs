//! What a certificate says.

use std::time::{Duration, SystemTime};

use magpie_auth::CertificateNames;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Names of one certificate that are looked at; the handshake bounds their bytes.
const NAMES_MAX: usize = 64;

/// The names of a certificate that was verified; none if it cannot be read.
pub(crate) fn names(der: &[u8]) -> CertificateNames {
    let mut names = CertificateNames::default();
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return names;
    };
    let common_name = certificate.subject().iter_common_name().last();
    names.common_name = common_name
        .and_then(|name| name.as_str().ok())
        .map(str::to_owned);
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else {
        return names;
    };
    for name in alternatives.value.general_names.iter().take(NAMES_MAX) {
        match name {
            GeneralName::DNSName(name) => names.dns_names.push((*name).to_owned()),
            GeneralName::URI(uri) => names.uris.push((*uri).to_owned()),
            GeneralName::RFC822Name(mail) => names.emails.push((*mail).to_owned()),
            _ => {}
        }
    }
    names
}

/// From when to when a certificate is valid.
pub(super) fn validity(der: &[u8]) -> Option<(SystemTime, SystemTime)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let at = |seconds: i64| {
        // One from before 1970 is as old as one of 1970.
        let seconds = u64::try_from(seconds).unwrap_or(0);
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    };
    let validity = certificate.validity();
    let begins_at = at(validity.not_before.timestamp())?;
    let ends_at = at(validity.not_after.timestamp())?;
    Some((begins_at, ends_at))
}
