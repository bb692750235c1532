//! PEM files. What is wrong with one is said with its name.

use std::io;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why a file is of no use: a sentence for the operator, that begins with the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the operating system says.
    #[error("{} cannot be read: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It begins something in PEM that is damaged.
    #[error("{} is not a PEM file: {error}", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        error: pem::Error,
    },
    /// There is none in it.
    #[error("{} has no certificate (a PEM file with BEGIN CERTIFICATE)", .0.display())]
    NoCertificate(PathBuf),
    /// There is none in it, or one in a form that we do not read.
    #[error(
        "{} has no private key (a PEM file with BEGIN PRIVATE KEY); one with a passphrase must be decrypted first",
        .0.display()
    )]
    NoPrivateKey(PathBuf),
    /// A certificate in it cannot vouch for others.
    #[error("{} has no usable authority: {error}", path.display())]
    NoAuthority {
        /// The file.
        path: PathBuf,
        /// Why.
        error: rustls::Error,
    },
}

/// All certificates of a file in their order, at least one.
///
/// # Errors
/// [`Error::Unreadable`], [`Error::NotPem`], [`Error::NoCertificate`].
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| of(path, error))?;
    match certificates.is_empty() {
        true => Err(Error::NoCertificate(path.to_owned())),
        false => Ok(certificates),
    }
}

/// The first private key of a file. One that is encrypted is none.
///
/// # Errors
/// [`Error::Unreadable`], [`Error::NotPem`], [`Error::NoPrivateKey`].
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| match error {
        pem::Error::NoItemsFound => Error::NoPrivateKey(path.to_owned()),
        error => of(path, error),
    })
}

/// The certificates of a file as those who vouch for others.
///
/// # Errors
/// As [`certificates`]; [`Error::NoAuthority`] if one of them cannot be used so.
pub fn authorities(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| Error::NoAuthority {
            path: path.to_owned(),
            error,
        })?;
    }
    Ok(roots)
}

fn of(path: &Path, error: pem::Error) -> Error {
    let path = path.to_owned();
    match error {
        pem::Error::Io(error) => Error::Unreadable { path, error },
        error => Error::NotPem { path, error },
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::fs;

    use super::*;

    #[test]
    fn a_certificate_and_its_key_are_read_from_one_file() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (_directory, path) = file(&(made.cert.pem() + &made.signing_key.serialize_pem()));
        assert_eq!(certificates(&path).unwrap(), [made.cert.der().clone()]);
        let key = private_key(&path).unwrap();
        assert_eq!(key.secret_der(), made.signing_key.serialized_der());
        assert_eq!(authorities(&path).unwrap().len(), 1);
    }

    #[test]
    fn what_is_wrong_is_said_with_the_name_of_the_file() {
        let check = |result: Result<(), Error>, path: &Path, what: &str| {
            let said = result.unwrap_err().to_string();
            let expected = format!("{} {what}", path.display());
            assert!(said.starts_with(&expected), "{said}");
        };
        let certificates = |path: &Path| certificates(path).map(drop);
        let private_key = |path: &Path| private_key(path).map(drop);
        let authorities = |path: &Path| authorities(path).map(drop);

        let (directory, path) = file("nothing");
        check(certificates(&path), &path, "has no certificate");
        check(authorities(&path), &path, "has no certificate");
        check(private_key(&path), &path, "has no private key");
        let (_kept, path) = file("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n");
        check(certificates(&path), &path, "is not a PEM file");
        let (_kept, path) = file("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        check(authorities(&path), &path, "has no usable authority");
        let absent = directory.path().join("absent");
        for read in [
            &certificates as &dyn Fn(&Path) -> _,
            &private_key,
            &authorities,
        ] {
            check(read(&absent), &absent, "cannot be read");
            check(read(directory.path()), directory.path(), "cannot be read");
        }
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("some.pem");
        fs::write(&path, text).unwrap();
        (directory, path)
    }
}
