//! A port in use is one clear sentence before anything is started.

use std::io::ErrorKind;
use std::net::TcpListener;

use anyhow::bail;

use super::plan::Plan;

/// Tries all addresses of the plan.
///
/// # Errors
/// The first that is taken or forbidden, with what to do.
pub(super) fn check(plan: &Plan) -> anyhow::Result<()> {
    for node in &plan.nodes {
        let uses = [
            (&node.mqtt, "MQTT", "--mqtt-port"),
            (&node.http, "HTTP", "--http-port"),
            (&node.cluster, "the cluster", "--cluster-port"),
        ];
        for (address, purpose, flag) in uses {
            let Err(error) = TcpListener::bind(address) else {
                continue;
            };
            let port = address.rsplit(':').next().unwrap_or_default();
            let name = &node.name;
            match error.kind() {
                ErrorKind::AddrInUse => bail!(
                    "port {port}, which {name} needs for {purpose}, is in use: stop the program that listens there \
                     (ss -ltnp 'sport = :{port}' shows it), or choose another port with {flag}"
                ),
                ErrorKind::PermissionDenied => bail!(
                    "port {port}, which {name} needs for {purpose}, may not be opened by this user: choose one above 1023 with {flag}"
                ),
                _ => {
                    bail!("{address}, which {name} needs for {purpose}, cannot be opened: {error}")
                }
            }
        }
    }
    Ok(())
}
