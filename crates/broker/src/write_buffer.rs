//! What is to be written to a socket: small packets in one buffer, large payloads beside it, all in one write.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use magpie_codec::{EncodeError, Message, ProtocolVersion, PublishHeader};
use tokio::io::AsyncWrite;

use crate::buffers;

/// A payload from this size on is written from where it is, not copied.
const SHARED_BYTES_MIN: usize = 16 * 1024;

/// Pieces given to one vectored write.
const SLICES_MAX: usize = 16;

/// A queue of bytes.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    /// Before `small`.
    pieces: VecDeque<Bytes>,
    pieces_bytes: usize,
    /// Borrowed from the thread while there is something in it.
    small: BytesMut,
}

impl WriteBuffer {
    pub(crate) fn len(&self) -> usize {
        self.pieces_bytes + self.small.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For encoding a packet at the end.
    pub(crate) fn end(&mut self) -> &mut BytesMut {
        if self.small.capacity() == 0 {
            self.small = buffers::take_write();
        }
        &mut self.small
    }

    /// Adds a PUBLISH.
    ///
    /// # Errors
    /// As the codec's.
    pub(crate) fn publish(
        &mut self,
        version: ProtocolVersion,
        header: &PublishHeader,
        message: &Message,
    ) -> Result<(), EncodeError> {
        if message.payload.len() < SHARED_BYTES_MIN {
            return magpie_codec::encode_publish(version, header, message, self.end());
        }
        magpie_codec::encode_publish_head(version, header, message, self.end())?;
        let head = self.small.split().freeze();
        self.pieces_bytes += head.len() + message.payload.len();
        self.pieces.push_back(head);
        self.pieces.push_back(message.payload.clone());
        Ok(())
    }

    /// Writes until the buffer is empty, and nothing waits in the socket's own buffers, or the socket is full.
    pub(crate) fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        socket: &mut W,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let written = ready!(self.poll_write(cx, socket))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        self.give_back();
        Pin::new(socket).poll_flush(cx)
    }

    fn poll_write<W: AsyncWrite + Unpin>(
        &self,
        cx: &mut Context<'_>,
        socket: &mut W,
    ) -> Poll<io::Result<usize>> {
        let socket = Pin::new(socket);
        if self.pieces.is_empty() {
            return socket.poll_write(cx, &self.small);
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let all = self
            .pieces
            .iter()
            .map(|piece| &piece[..])
            .chain([&self.small[..]]);
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(all) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        socket.poll_write_vectored(cx, &slices[..count])
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(piece) = self.pieces.front_mut() {
            let taken = written.min(piece.len());
            piece.advance(taken);
            self.pieces_bytes -= taken;
            written -= taken;
            if !piece.is_empty() {
                return;
            }
            self.pieces.pop_front();
        }
        self.small.advance(written);
    }

    /// Gives the memory back when empty.
    fn give_back(&mut self) {
        if self.small.capacity() > 0 {
            buffers::give_write(std::mem::take(&mut self.small));
        }
        if self.pieces.capacity() > 0 {
            self.pieces = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use magpie_codec::{Decoder, Limits, Packet, TopicName};
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Small and large messages leave in their order, also when the socket takes them in portions.
    #[tokio::test]
    async fn keeps_the_order_of_small_and_large() {
        let (mut ours, mut theirs) = tokio::io::duplex(1000);
        let mut buffer = WriteBuffer::default();
        let sizes = [10, 100_000, 20, 30, 16 * 1024, 40];
        for size in sizes {
            let message = Arc::new(Message {
                topic: TopicName::from_static("t"),
                payload: vec![size as u8; size].into(),
                properties: None,
            });
            buffer
                .publish(ProtocolVersion::V3_1_1, &PublishHeader::default(), &message)
                .unwrap();
        }
        let total = buffer.len();
        let reading = tokio::spawn(async move {
            let mut read = BytesMut::with_capacity(total);
            while read.len() < total {
                theirs.read_buf(&mut read).await.unwrap();
            }
            read
        });
        std::future::poll_fn(|cx| buffer.poll_flush(cx, &mut ours))
            .await
            .unwrap();
        assert_eq!(buffer.small.capacity() + buffer.pieces.capacity(), 0);
        let mut read = reading.await.unwrap();
        let mut decoder = Decoder::client(ProtocolVersion::V3_1_1, Limits::default());
        for size in sizes {
            let Packet::Publish(publish) = decoder.decode(&mut read).unwrap().unwrap() else {
                panic!("not a PUBLISH");
            };
            assert_eq!(publish.payload, vec![size as u8; size]);
        }
    }
}
