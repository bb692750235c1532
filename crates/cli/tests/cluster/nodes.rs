//! The processes: started on ports of their own, killed, started again, and gone with the test.

#[path = "../../../../tests/ports.rs"]
mod ports;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use magpie_client::{Client, Options};
use magpie_codec::ProtocolVersion;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

pub(super) use ports::free_ports;

/// Generous, since the machine may be busy with other tests.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long nothing may happen where something must.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Three nodes that know each other.
pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    _home: TempDir,
}

/// One node, running or not. Its process is killed with this value.
pub(super) struct Node {
    name: String,
    mqtt: u16,
    http: u16,
    arguments: Vec<String>,
    settings: &'static [(&'static str, &'static str)],
    log: PathBuf,
    process: Option<Child>,
}

impl Cluster {
    /// Starts three nodes and waits until all are ready.
    pub(super) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with settings of the environment.
    pub(super) async fn start_with(settings: &'static [(&str, &str)]) -> Self {
        let home = TempDir::new().unwrap();
        fs::write(home.path().join("secret"), "of a test").unwrap();
        let base = free_ports(9);
        let nodes = (0..3)
            .map(|number| Node::new(number, base, home.path(), settings))
            .collect();
        let mut cluster = Self { nodes, _home: home };
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster.wait_ready().await;
        cluster
    }

    /// Until every node may accept clients.
    pub(super) async fn wait_ready(&mut self) {
        let deadline = Instant::now() + READY_WITHIN;
        for node in &mut self.nodes {
            while !node.is_ready().await {
                assert!(
                    Instant::now() < deadline,
                    "{} is not ready after {READY_WITHIN:?}",
                    node.name
                );
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                let log = fs::read_to_string(&node.log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = &lines[lines.len().saturating_sub(30)..];
                eprintln!("--- the end of {}'s log\n{}", node.name, tail.join("\n"));
            }
        }
    }
}

impl Node {
    fn new(
        number: u16,
        base: u16,
        home: &Path,
        settings: &'static [(&'static str, &'static str)],
    ) -> Self {
        let name = format!("node{}", number + 1);
        let address = |port: u16| format!("127.0.0.1:{port}");
        let (mqtt, http, cluster) = (base + number, base + 3 + number, base + 6 + number);
        let seeds: Vec<String> = (6..9).map(|offset| address(base + offset)).collect();
        let path = |name: &str| home.join(name).display().to_string();
        let arguments = [
            ("--data-dir", path(&name)),
            ("--node-name", name.clone()),
            ("--mqtt-listen", address(mqtt)),
            ("--http-listen", address(http)),
            ("--cluster-listen", address(cluster)),
            ("--seeds", seeds.join(",")),
            ("--cluster-secret-file", path("secret")),
        ];
        Self {
            log: home.join(format!("{name}.log")),
            arguments: arguments
                .into_iter()
                .flat_map(|(flag, value)| [flag.to_owned(), value])
                .collect(),
            settings,
            name,
            mqtt,
            http,
            process: None,
        }
    }

    /// A cluster of one, with more flags; of three ports in a row from `base`.
    pub(super) fn alone(home: &Path, base: u16, flags: &[&str]) -> Self {
        let address = |offset: u16| format!("127.0.0.1:{}", base + offset);
        let arguments = [
            ("--data-dir", home.join("node").display().to_string()),
            ("--mqtt-listen", address(0)),
            ("--http-listen", address(1)),
            ("--cluster-listen", address(2)),
        ];
        Self {
            log: home.join("node.log"),
            arguments: arguments
                .into_iter()
                .flat_map(|(flag, value)| [flag.to_owned(), value])
                .chain(flags.iter().map(|flag| (*flag).to_owned()))
                .collect(),
            settings: &[],
            name: String::from("node"),
            mqtt: base,
            http: base + 1,
            process: None,
        }
    }

    /// Starts the process.
    pub(super) fn start(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_magpie"))
            .arg("start")
            .args(&self.arguments)
            .envs(self.settings.iter().copied())
            // The node ends with the test, however the test ends.
            .arg("--stop-with-stdin")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Whether `/readyz` answers 200.
    pub(super) async fn is_ready(&mut self) -> bool {
        if let Some(process) = &mut self.process {
            assert_eq!(process.try_wait().unwrap(), None, "{} ended", self.name);
        }
        let asked = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.http)).await?;
            stream
                .write_all(b"GET /readyz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
                .await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer.starts_with("HTTP/1.1 200"))
        };
        matches!(timeout(Duration::from_secs(3), asked).await, Ok(Ok(true)))
    }

    /// `magpie ctl --json` at this node, with `input` as its standard input: whether it succeeded, and what it printed.
    pub(super) fn ctl(&self, arguments: &[&str], input: &str) -> (bool, String) {
        let mut process = Command::new(env!("CARGO_BIN_EXE_magpie"))
            .args(["ctl", "--json", "--http"])
            .arg(format!("127.0.0.1:{}", self.http))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that reads nothing may have ended already.
        let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
        let output = process.wait_with_output().unwrap();
        let text = match output.status.success() {
            true => output.stdout,
            false => output.stderr,
        };
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    /// The answer to a request of the API or `/metrics`, head and body; `body` is JSON.
    pub(super) async fn http(&self, request: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).await.unwrap();
        let text = format!(
            "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Where the node keeps its data, and tests its files.
    pub(super) fn home(&self) -> &Path {
        self.log.parent().unwrap()
    }

    /// What a client needs to connect here.
    pub(super) fn options(&self, version: ProtocolVersion) -> Options {
        let mut options = Options::new("127.0.0.1", self.mqtt);
        options.version = version;
        options
    }

    /// A client of this version.
    pub(super) async fn client(&self, version: ProtocolVersion) -> Client {
        Client::connect(self.options(version)).await.unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
