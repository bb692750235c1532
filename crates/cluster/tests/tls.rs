//! TLS between nodes: they find each other by it, and nobody else is let in.

#![expect(clippy::unwrap_used, reason = "tests")]

mod node;

use std::sync::Arc;

use magpie_cluster::{Config, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// An authority, and a certificate of a node that it has signed.
fn files(directory: &TempDir) -> TlsFiles {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    TlsFiles {
        certificate: write("node.pem", &certificate.pem()),
        key: write("node.key", &key.serialize_pem()),
        authority: write("ca.pem", &authority.pem()),
    }
}

#[tokio::test]
async fn nodes_trust_each_other_by_certificates_and_strangers_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(&directory);
    let nodes = node::nodes_with(3, |config| config.tls = Some(files.clone())).await;
    // They are ready, hence have a leader, hence have spoken.
    let address = &nodes[0].config.cluster_advertise;
    // One without TLS gets nothing but an alert, if that.
    let mut plain = TcpStream::connect(address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut plain, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(answer.len() < 16, "{answer:?}");
    // One that trusts the cluster and has no certificate is refused by it.
    let mut roots = RootCertStore::empty();
    let pem = std::fs::read(&files.authority).unwrap();
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    let authority = tokio_rustls::rustls::pki_types::CertificateDer::from_pem_slice(&pem).unwrap();
    roots.add(authority).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let socket = TcpStream::connect(address).await.unwrap();
    let connected = TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await;
    let is_refused = match connected {
        Ok(mut socket) => loop {
            // The settings of HTTP/2 may come before the alert is seen.
            match socket.read_u8().await {
                Ok(_) => {}
                Err(_) => break true,
            }
        },
        Err(_) => true,
    };
    assert!(is_refused);
    for node in &nodes {
        node.cluster.reload_tls().unwrap();
    }
    std::fs::write(&files.key, "no key").unwrap();
    let refused = nodes[0].cluster.reload_tls().unwrap_err();
    assert_eq!(refused.key, "cluster_tls_key");
}

#[test]
fn files_that_cannot_be_used_are_problems() {
    let directory = tempfile::tempdir().unwrap();
    let good = files(&directory);
    let keys = |files: TlsFiles| {
        let config = Config {
            tls: Some(files),
            ..Config::default()
        };
        let problems = config.problems();
        problems.iter().map(|it| it.key).collect::<Vec<_>>()
    };
    assert!(keys(good.clone()).is_empty());
    let absent = directory.path().join("absent");
    let with = |change: &dyn Fn(&mut TlsFiles)| {
        let mut files = good.clone();
        change(&mut files);
        keys(files)
    };
    assert_eq!(
        with(&|it| it.certificate = absent.clone()),
        ["cluster_tls_cert"]
    );
    assert_eq!(with(&|it| it.key = absent.clone()), ["cluster_tls_key"]);
    assert_eq!(
        with(&|it| it.authority = absent.clone()),
        ["cluster_tls_ca"]
    );
    assert_eq!(
        with(&|it| it.authority = good.key.clone()),
        ["cluster_tls_ca"]
    );
}
