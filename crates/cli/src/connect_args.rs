//! The options that `pub` and `sub` share: which server, as whom, with which will.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use magpie_client::{Error, Options};
use magpie_codec::{ProtocolVersion, QoS, ReasonCode, Text, TopicName, Will};

use crate::property::Properties;
use crate::tls_args::TlsArgs;

/// Where to connect and as whom; named as in `mosquitto_pub` and `mosquitto_sub`.
#[derive(Args, Debug)]
pub(crate) struct ConnectArgs {
    /// The server's host name or address
    #[arg(short = 'h', long, default_value = "localhost", value_name = "HOST")]
    pub(crate) host: String,
    /// The server's port; 1883 when left out, or 8883 with TLS
    #[arg(short = 'p', long)]
    pub(crate) port: Option<u16>,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    /// Client identifier; made up when left out
    #[arg(
        short = 'i',
        long = "id",
        value_name = "ID",
        conflicts_with = "id_prefix"
    )]
    pub(crate) client_id: Option<String>,
    /// Client identifier is this followed by the process id
    #[arg(short = 'I', long, value_name = "PREFIX")]
    pub(crate) id_prefix: Option<String>,
    /// User name
    #[arg(short = 'u', long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// Password
    #[arg(short = 'P', long = "pw", value_name = "PASSWORD")]
    pub(crate) password: Option<String>,
    /// Protocol version: mqttv5 or 5, mqttv311 or 311, mqttv31 or 31
    #[arg(short = 'V', long, default_value = "mqttv311", value_name = "VERSION", value_parser = parse_version)]
    pub(crate) protocol_version: ProtocolVersion,
    /// Keep the session after the connection ended (needs -i)
    #[arg(short = 'c', long)]
    pub(crate) disable_clean_session: bool,
    /// Keep alive in seconds; 0 turns it off
    #[arg(short = 'k', long, default_value_t = 60, value_name = "SECONDS")]
    pub(crate) keepalive: u16,
    /// Session expiry interval in seconds, -1 for never (version 5)
    #[arg(short = 'x', long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = parse_expiry)]
    pub(crate) session_expiry_interval: Option<u32>,
    /// Seconds to wait for the server to accept the connection
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) connect_timeout: Duration,
    /// Topic of the will
    #[arg(long, value_name = "TOPIC")]
    pub(crate) will_topic: Option<String>,
    /// Payload of the will; empty when left out
    #[arg(
        long,
        value_name = "PAYLOAD",
        requires = "will_topic",
        allow_hyphen_values = true
    )]
    pub(crate) will_payload: Option<String>,
    /// QoS of the will
    #[arg(long, default_value = "0", value_name = "QOS", requires = "will_topic", value_parser = parse_qos)]
    pub(crate) will_qos: QoS,
    /// Retain the will
    #[arg(long, requires = "will_topic")]
    pub(crate) will_retain: bool,
    /// A version 5 property: COMMAND PROPERTY VALUE, or COMMAND user-property NAME VALUE
    #[arg(short = 'D', long = "property", num_args = 3..=4, value_names = ["COMMAND", "PROPERTY", "VALUE"])]
    pub(crate) properties: Vec<String>,
    /// Print what is sent and received
    #[arg(short = 'd', long)]
    pub(crate) debug: bool,
    /// Print no errors
    #[arg(long)]
    pub(crate) quiet: bool,
}

impl ConnectArgs {
    /// The client's options, for a client id that starts with `name` if the user gave none.
    ///
    /// # Errors
    /// When a text or topic is not valid, or options contradict each other.
    pub(crate) fn options(&self, name: &str, properties: &Properties) -> anyhow::Result<Options> {
        if self.disable_clean_session && self.client_id.is_none() && self.id_prefix.is_none() {
            bail!("a session that is kept (-c) needs a client identifier (-i)");
        }
        let version = self.protocol_version;
        if version != ProtocolVersion::V5
            && (properties.any || self.session_expiry_interval.is_some())
        {
            bail!("properties (-D, -x) need protocol version 5: -V 5");
        }
        let client_id = match (&self.client_id, &self.id_prefix) {
            (Some(client_id), _) => client_id.clone(),
            (None, Some(prefix)) => format!("{prefix}{}", std::process::id()),
            (None, None) => format!("{name}-{}", std::process::id()),
        };
        let mut connect = properties.connect.clone();
        if let Some(expiry_s) = self.session_expiry_interval {
            connect.session_expiry_interval_s = expiry_s;
        } else if self.disable_clean_session && connect.session_expiry_interval_s == 0 {
            // As clean session off means before version 5.
            connect.session_expiry_interval_s = u32::MAX;
        }
        Ok(Options {
            version,
            client_id: Text::try_from(client_id).context("the client identifier")?,
            clean_start: !self.disable_clean_session,
            keep_alive_s: self.keepalive,
            username: self
                .username
                .as_deref()
                .map(Text::try_from)
                .transpose()
                .context("the user name")?,
            password: self.password.clone().map(Into::into),
            will: self.will(properties)?,
            properties: connect,
            connect_timeout: self.connect_timeout,
            tls: self.tls.tls()?,
            ..Options::new(self.host.clone(), self.port())
        })
    }

    /// The server's port.
    pub(crate) fn port(&self) -> u16 {
        let usual = if self.tls.is_on() { 8883 } else { 1883 };
        self.port.unwrap_or(usual)
    }

    fn will(&self, properties: &Properties) -> anyhow::Result<Option<Will>> {
        let Some(topic) = &self.will_topic else {
            return Ok(None);
        };
        Ok(Some(Will {
            topic: TopicName::try_from(topic.as_str())
                .with_context(|| format!("the will's topic {topic:?}"))?,
            payload: self.will_payload.clone().unwrap_or_default().into(),
            qos: self.will_qos,
            retain: self.will_retain,
            delay_interval_s: properties.will_delay_interval_s,
            properties: properties.will.clone().map(Box::new),
        }))
    }

    /// Says on standard error what happened, unless told to be quiet; the exit code for it.
    pub(crate) fn fail(&self, command: &str, error: &Error) -> ExitCode {
        if !self.quiet {
            eprintln!("magpie {command}: {error}");
        }
        ExitCode::from(exit_code(error, self.protocol_version))
    }
}

/// As `mosquitto_pub` and `mosquitto_sub`: a refused connection gives the code of its CONNACK in the version spoken,
/// a lost one 7, everything else 1.
fn exit_code(error: &Error, version: ProtocolVersion) -> u8 {
    const CONNECTION_LOST: u8 = 7;
    match error {
        Error::Refused { reason, .. } if version.has_properties() => u8::from(*reason),
        Error::Refused { reason, .. } => match reason {
            ReasonCode::UnsupportedProtocolVersion => 1,
            ReasonCode::ClientIdentifierNotValid => 2,
            ReasonCode::BadUserNameOrPassword => 4,
            ReasonCode::NotAuthorized => 5,
            _ => 3,
        },
        Error::Disconnected { .. } | Error::Closed | Error::Io(_) | Error::KeepAliveTimeout => {
            CONNECTION_LOST
        }
        _ => 1,
    }
}

/// A QoS from the command line.
pub(crate) fn parse_qos(text: &str) -> Result<QoS, String> {
    text.parse()
        .ok()
        .and_then(QoS::from_u8)
        .ok_or_else(|| "the QoS is 0, 1 or 2".to_owned())
}

/// A protocol version in any of the spellings that `mosquitto_pub` takes.
pub(crate) fn parse_version(text: &str) -> Result<ProtocolVersion, String> {
    match text {
        "mqttv5" | "5" | "5.0" => Ok(ProtocolVersion::V5),
        "mqttv311" | "311" | "3.1.1" | "4" => Ok(ProtocolVersion::V3_1_1),
        "mqttv31" | "31" | "3.1" | "3" => Ok(ProtocolVersion::V3_1),
        _ => Err("the versions are mqttv5, mqttv311 and mqttv31".to_owned()),
    }
}

/// Seconds, with a fraction if need be.
pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn parse_expiry(text: &str) -> Result<u32, String> {
    match text {
        "-1" | "∞" => Ok(u32::MAX),
        _ => text
            .parse()
            .map_err(|_| "not a number of seconds, and not -1 for never".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_connack() {
        let refused = Error::Refused {
            reason: ReasonCode::NotAuthorized,
            detail: None,
        };
        assert_eq!(exit_code(&refused, ProtocolVersion::V3_1_1), 5);
        assert_eq!(exit_code(&refused, ProtocolVersion::V5), 0x87);
        assert_eq!(exit_code(&Error::Closed, ProtocolVersion::V5), 7);
        assert_eq!(exit_code(&Error::Ended, ProtocolVersion::V5), 1);
    }

    #[test]
    fn versions_and_times_have_many_spellings() {
        assert_eq!(parse_version("5"), parse_version("mqttv5"));
        assert_eq!(parse_version("311"), Ok(ProtocolVersion::V3_1_1));
        assert!(parse_version("6").is_err());
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(parse_seconds("-1").is_err());
        assert_eq!(parse_expiry("-1"), Ok(u32::MAX));
    }
}
