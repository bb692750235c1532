//! Version 5 properties on the command line: `-D COMMAND PROPERTY VALUE`, named as in `mosquitto_pub`.

use std::num::{NonZeroU16, NonZeroU32};
use std::str::FromStr;

use anyhow::{Context, bail};
use magpie_codec::{
    ConnectProperties, Disconnect, DisconnectProperties, MessageProperties, PayloadFormat, Text,
    TopicName, UserProperties,
};

/// The properties that were given, by the packet that they go with.
#[derive(Debug, Default)]
pub(crate) struct Properties {
    /// Whether there is any.
    pub(crate) any: bool,
    pub(crate) connect: ConnectProperties,
    pub(crate) publish: Option<MessageProperties>,
    pub(crate) will: Option<MessageProperties>,
    pub(crate) will_delay_interval_s: u32,
    pub(crate) subscription_id: Option<u32>,
    pub(crate) disconnect: Disconnect,
}

impl Properties {
    /// Reads the words of all `-D` in a row.
    ///
    /// # Errors
    /// When a command has no such property, or a value is not valid.
    pub(crate) fn parse(words: &[String]) -> anyhow::Result<Self> {
        let mut properties = Self {
            any: !words.is_empty(),
            ..Self::default()
        };
        let mut words = words.iter().map(String::as_str);
        while let Some(command) = words.next() {
            let property = words
                .next()
                .with_context(|| format!("-D {command} needs a property"))?;
            let mut value = || {
                words
                    .next()
                    .with_context(|| format!("-D {command} {property} needs a value"))
            };
            let first = value()?;
            let second = if property == "user-property" {
                Some(value()?)
            } else {
                None
            };
            properties
                .set(command, property, first, second)
                .with_context(|| format!("-D {command} {property} {first}"))?;
        }
        Ok(properties)
    }

    fn set(
        &mut self,
        command: &str,
        property: &str,
        value: &str,
        second: Option<&str>,
    ) -> anyhow::Result<()> {
        match command {
            "connect" => set_connect(&mut self.connect, property, value, second),
            "publish" => set_message(
                self.publish.get_or_insert_default(),
                property,
                value,
                second,
            ),
            "will" if property == "will-delay-interval" => {
                put(&mut self.will_delay_interval_s, value)
            }
            "will" => set_message(self.will.get_or_insert_default(), property, value, second),
            "subscribe" if property == "subscription-identifier" => {
                self.subscription_id = Some(value.parse()?);
                Ok(())
            }
            "disconnect" => set_disconnect(
                self.disconnect.properties.get_or_insert_default(),
                property,
                value,
                second,
            ),
            "subscribe" => bail!("the property is not known for this command"),
            _ => bail!("the commands are connect, publish, will, subscribe and disconnect"),
        }
    }
}

fn set_connect(
    connect: &mut ConnectProperties,
    property: &str,
    value: &str,
    second: Option<&str>,
) -> anyhow::Result<()> {
    match property {
        "session-expiry-interval" => put(&mut connect.session_expiry_interval_s, value),
        "receive-maximum" => {
            connect.receive_maximum = Some(value.parse::<NonZeroU16>()?);
            Ok(())
        }
        "maximum-packet-size" => {
            connect.maximum_packet_size = Some(value.parse::<NonZeroU32>()?);
            Ok(())
        }
        "topic-alias-maximum" => put(&mut connect.topic_alias_maximum, value),
        "user-property" => add_user(&mut connect.user_properties, value, second),
        _ => bail!("the property is not known for this command"),
    }
}

fn set_message(
    message: &mut MessageProperties,
    property: &str,
    value: &str,
    second: Option<&str>,
) -> anyhow::Result<()> {
    match property {
        "payload-format-indicator" => {
            message.payload_format = Some(PayloadFormat::new(value.parse::<u8>()? != 0));
        }
        "message-expiry-interval" => message.expiry_interval_s = Some(value.parse()?),
        "content-type" => message.content_type = Some(Text::try_from(value)?),
        "response-topic" => message.response_topic = Some(TopicName::try_from(value)?),
        "correlation-data" => message.correlation_data = Some(value.to_owned().into()),
        "user-property" => add_user(&mut message.user_properties, value, second)?,
        _ => bail!("the property is not known for this command"),
    }
    Ok(())
}

fn set_disconnect(
    disconnect: &mut DisconnectProperties,
    property: &str,
    value: &str,
    second: Option<&str>,
) -> anyhow::Result<()> {
    match property {
        "session-expiry-interval" => disconnect.session_expiry_interval_s = Some(value.parse()?),
        "user-property" => add_user(&mut disconnect.user_properties, value, second)?,
        _ => bail!("the property is not known for this command"),
    }
    Ok(())
}

fn put<T>(field: &mut T, value: &str) -> anyhow::Result<()>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    *field = value.parse()?;
    Ok(())
}

fn add_user(user: &mut UserProperties, name: &str, value: Option<&str>) -> anyhow::Result<()> {
    user.push((
        Text::try_from(name)?,
        Text::try_from(value.unwrap_or_default())?,
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn parse(line: &str) -> anyhow::Result<Properties> {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        Properties::parse(&words)
    }

    #[test]
    fn properties_go_to_their_packets() {
        let line = "connect receive-maximum 7 publish user-property a b publish content-type text/plain \
                    will will-delay-interval 3 subscribe subscription-identifier 9";
        let properties = parse(line).unwrap();
        assert_eq!(properties.connect.receive_maximum, NonZeroU16::new(7));
        let publish = properties.publish.unwrap();
        assert_eq!(publish.user_properties[0].1, "b");
        assert_eq!(publish.content_type.unwrap(), "text/plain");
        assert_eq!(properties.will_delay_interval_s, 3);
        assert_eq!(properties.subscription_id, Some(9));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, part) in [
            ("publish content-type", "needs a value"),
            ("publish user-property a", "needs a value"),
            ("publish nonsense 1", "publish nonsense 1"),
            ("connect receive-maximum 0", "receive-maximum 0"),
            ("ping a b", "the commands are"),
        ] {
            let error = format!("{:#}", parse(line).unwrap_err());
            assert!(error.contains(part), "{line}: {error}");
        }
        assert!(!parse("").unwrap().any);
    }
}
