//! What the partition of a client tells about its Session.

use bytes::{BufMut, Bytes, BytesMut};
use magpie_codec::Text;

use crate::record::{put_cursors, put_inflight, read_cursors, read_inflight};
use crate::wire::{
    put_count, put_stream, put_text, read_epoch, read_list, read_stream, read_text, read_u8,
    read_u32, read_u64,
};
use crate::{ClientId, Cursor, DecodeError, Epoch, Inflight, StoredSubscription, StreamId};

/// A Session as its partition holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSession {
    /// Incarnation: the epoch of the attach that created it. A Session with the same client and another incarnation is another one.
    pub session: Epoch,
    /// The connection that is attached: its epoch, and the node that holds it.
    pub attached: Option<(Epoch, StreamId)>,
    /// Session Expiry Interval, seconds; `u32::MAX`: never.
    pub session_expiry_s: u32,
    /// Ordered by filter.
    pub subscriptions: Vec<StoredSubscription>,
    /// How far it has got, the progress of its node's cohort included. By partition, ascending; a partition that is missing was not begun.
    pub cursors: Vec<Cursor>,
    /// What is on its way and not done, in the order of the first sending.
    pub inflight: Vec<Inflight>,
    /// Messages that limits have taken from it since it began; where that is not known exactly, not less than there were.
    pub lost: u64,
    /// User name that it belongs to; `None`: anybody may take it.
    pub owner: Option<Text>,
}

/// A Session in a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSummary {
    /// Whose.
    pub client: ClientId,
    /// Incarnation.
    pub session: Epoch,
    /// The connection that is attached: its epoch, and the node that holds it.
    pub attached: Option<(Epoch, StreamId)>,
    /// Session Expiry Interval, seconds; `u32::MAX`: never.
    pub session_expiry_s: u32,
    /// How many subscriptions it has.
    pub subscriptions: usize,
    /// User name that it belongs to; `None`: anybody may take it.
    pub owner: Option<Text>,
}

impl StoredSession {
    /// The bytes, for the way to another node.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u64_le(self.session.0);
        out.put_u32_le(self.session_expiry_s);
        out.put_u8(u8::from(self.attached.is_some()));
        if let Some((epoch, holder)) = self.attached {
            out.put_u64_le(epoch.0);
            put_stream(&mut out, holder);
        }
        put_count(&mut out, self.subscriptions.len());
        for subscription in &self.subscriptions {
            subscription.encode(&mut out);
        }
        put_cursors(&mut out, &self.cursors);
        put_inflight(&mut out, &self.inflight);
        out.put_u64_le(self.lost);
        put_text(&mut out, self.owner.as_deref().unwrap_or_default());
        out.freeze()
    }

    /// The reverse of [`encode`](Self::encode); filters are slices of `buf`.
    ///
    /// # Errors
    /// Bytes that no version up to this one writes.
    pub fn decode(mut buf: Bytes) -> Result<Self, DecodeError> {
        let buf = &mut buf;
        Ok(Self {
            session: read_epoch(buf)?,
            session_expiry_s: read_u32(buf, "session expiry")?,
            attached: match read_u8(buf, "attached")? {
                0 => None,
                _ => Some((read_epoch(buf)?, read_stream(buf, "holder")?)),
            },
            subscriptions: read_list(buf, "subscriptions", StoredSubscription::decode)?,
            cursors: read_cursors(buf)?,
            inflight: read_inflight(buf)?,
            lost: read_u64(buf, "lost messages")?,
            owner: Some(read_text(buf, "owner")?).filter(|owner| !owner.is_empty()),
        })
    }
}
