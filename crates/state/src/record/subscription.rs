//! A subscription, as it is stored in its Session.

use bytes::{BufMut, Bytes};
use magpie_codec::{RetainHandling, SubscriptionOptions, TopicFilter};

use super::progress::{put_places, read_places};
use crate::wire::{put_text, read_filter, read_qos, read_u8, read_u32};
use crate::{DecodeError, PartitionId, Position};

/// A subscription, as it is stored in its Session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSubscription {
    /// What for.
    pub filter: TopicFilter,
    /// Its options.
    pub options: SubscriptionOptions,
    /// Subscription Identifier.
    pub id: Option<u32>,
    /// Messages above these positions belong to it: of one partition for a filter without wildcard, else of all.
    pub since: Vec<(PartitionId, Position)>,
}

impl StoredSubscription {
    /// Appends the bytes to `out`.
    pub fn encode(&self, out: &mut impl BufMut) {
        put_subscription(
            out,
            self.filter.as_str(),
            self.options,
            self.id,
            &self.since,
        );
    }

    /// The reverse of [`encode`](Self::encode).
    ///
    /// # Errors
    /// Bytes that no version up to this one writes.
    pub fn decode(buf: &mut Bytes) -> Result<Self, DecodeError> {
        let filter = read_filter(buf, "topic filter")?;
        let (options, has_id) = read_options(buf)?;
        Ok(Self {
            filter,
            options,
            id: has_id
                .then(|| read_u32(buf, "subscription id"))
                .transpose()?,
            since: read_places(buf)?,
        })
    }
}

pub(crate) fn put_subscription(
    out: &mut impl BufMut,
    filter: &str,
    options: SubscriptionOptions,
    id: Option<u32>,
    since: &[(PartitionId, Position)],
) {
    put_text(out, filter);
    let SubscriptionOptions {
        qos,
        no_local,
        retain_as_published,
        retain_handling,
    } = options;
    out.put_u8(qos as u8);
    out.put_u8(retain_handling as u8);
    out.put_u8(
        u8::from(no_local) | u8::from(retain_as_published) << 1 | u8::from(id.is_some()) << 2,
    );
    if let Some(id) = id {
        out.put_u32_le(id);
    }
    put_places(out, since);
}

/// The options, and whether an identifier follows.
fn read_options(buf: &mut Bytes) -> Result<(SubscriptionOptions, bool), DecodeError> {
    const WHAT: &str = "subscription options";
    let qos = read_qos(buf, WHAT)?;
    let retain_handling = match read_u8(buf, WHAT)? {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(DecodeError::new(WHAT, "unknown retain handling")),
    };
    let flags = read_u8(buf, WHAT)?;
    let options = SubscriptionOptions {
        qos,
        no_local: flags & 1 != 0,
        retain_as_published: flags & 2 != 0,
        retain_handling,
    };
    Ok((options, flags & 4 != 0))
}
