//! WebSocket as a stream of bytes: what a client sends in binary frames is read, what is written goes out in binary frames.
//!
//! It keeps no payload, neither way: frames are taken apart in the reader's buffer, and a frame is begun when there is something to write
//! and ends with what was there then.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use magpie_framing::frames::{self, Control, Deframer, From, HEADER_BYTES_MAX, Sent, Violation};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::debug;

use crate::stream::Stream;

/// Payload of a frame that we send. More would need a longer header, and some clients take no long messages.
const FRAME_BYTES_MAX: usize = u16::MAX as usize;

/// Pieces of one write, besides the header.
const SLICES_MAX: usize = 16;

/// A normal end (RFC 6455, 7.4.1).
const CLOSE_NORMAL: u16 = 1000;

/// A connection that was upgraded.
pub(crate) struct WebSocket {
    stream: Stream,
    deframer: Deframer,
    /// The header of the frame that is being written, or a whole control frame.
    head: Head,
    /// Payload of that frame that is not written.
    frame_bytes_left: usize,
    /// To be sent between two frames.
    answer: Option<Control>,
    /// Nothing is read any more.
    is_over: bool,
    has_sent_close: bool,
}

impl WebSocket {
    /// A longer frame of the client than `frame_bytes_max` ends the connection.
    pub(crate) fn new(stream: Stream, frame_bytes_max: u64) -> Self {
        Self {
            stream,
            deframer: Deframer::new(From::Client, frame_bytes_max),
            head: Head::default(),
            frame_bytes_left: 0,
            answer: None,
            is_over: false,
            has_sent_close: false,
        }
    }

    pub(crate) fn needs_flush(&self) -> bool {
        let can_answer = self.answer.is_some() && self.frame_bytes_left == 0;
        can_answer || !self.head.is_empty() || self.stream.needs_flush()
    }

    /// Notes what the client said beside the data.
    fn listen(&mut self) {
        match self.deframer.heard() {
            Some(close @ Control::Close(_)) if !self.is_over => {
                self.is_over = true;
                self.answer = Some(close);
            }
            Some(ping @ Control::Ping(_)) => self.answer = Some(ping),
            _ => {}
        }
    }

    fn fail(&mut self, violation: Violation) {
        debug!(%violation, "websocket closed");
        self.is_over = true;
        self.answer = Some(Control::Close(Some(violation.close_code())));
    }

    /// Writes the answer, if there is one, and no frame is half written.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.frame_bytes_left > 0 {
                // Its header goes out with its payload.
                return Poll::Ready(Ok(()));
            }
            while !self.head.is_empty() {
                let written = ready!(Pin::new(&mut self.stream).poll_write(cx, self.head.rest()))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.head.advance(written);
            }
            match self.answer.take() {
                None => return Poll::Ready(Ok(())),
                Some(_) if self.has_sent_close => {}
                Some(Control::Ping(payload)) => self.head.control(Sent::Pong, payload.bytes()),
                Some(Control::Close(code)) => {
                    self.has_sent_close = true;
                    let code = code.map(u16::to_be_bytes);
                    let code = code.as_ref().map_or(&[][..], |code| code);
                    self.head.control(Sent::Close, code);
                }
            }
        }
    }

    fn poll_flush_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_answer(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Begins a frame, if none is begun, and writes of it what can be written.
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let slices = &slices[..slices.len().min(SLICES_MAX)];
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        if self.frame_bytes_left == 0 {
            ready!(self.poll_answer(cx))?;
            if self.has_sent_close {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            self.frame_bytes_left = total.min(FRAME_BYTES_MAX);
            self.head.binary(self.frame_bytes_left);
        }
        loop {
            let mut pieces = [IoSlice::new(&[]); SLICES_MAX + 1];
            pieces[0] = IoSlice::new(self.head.rest());
            let mut count = 1;
            let mut left = self.frame_bytes_left;
            for slice in slices {
                let part = &slice[..slice.len().min(left)];
                if !part.is_empty() {
                    pieces[count] = IoSlice::new(part);
                    count += 1;
                    left -= part.len();
                }
            }
            // Some writers look at the first piece only.
            let first = usize::from(self.head.is_empty());
            let written = Pin::new(&mut self.stream).poll_write_vectored(cx, &pieces[first..count]);
            let written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_payload = self.head.advance(written);
            self.frame_bytes_left -= of_payload;
            if of_payload > 0 {
                return Poll::Ready(Ok(of_payload));
            }
        }
    }
}

impl AsyncRead for WebSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        while !this.is_over && buffer.filled().len() == before && buffer.remaining() > 0 {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
            let came = &mut buffer.filled_mut()[before..];
            if came.is_empty() {
                break;
            }
            let taken = this.deframer.take(came);
            buffer.set_filled(before + *taken.as_ref().unwrap_or(&0));
            match taken {
                Ok(_) => this.listen(),
                Err(violation) => this.fail(violation),
            }
            // At once if there is room; else when the socket is flushed.
            if this.answer.is_some() && matches!(this.poll_flush_all(cx), Poll::Ready(Err(_))) {
                // What came before is read first: it may be a DISCONNECT.
                this.is_over = true;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WebSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_frame(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_frame(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_flush_all(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.has_sent_close && this.answer.is_none() && this.frame_bytes_left == 0 {
            this.answer = Some(Control::Close(Some(CLOSE_NORMAL)));
        }
        ready!(this.poll_flush_all(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

/// Bytes before the payload of a frame, or a control frame.
struct Head {
    bytes: [u8; HEADER_BYTES_MAX + 125],
    from: u8,
    to: u8,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            bytes: [0; HEADER_BYTES_MAX + 125],
            from: 0,
            to: 0,
        }
    }
}

impl Head {
    const fn is_empty(&self) -> bool {
        self.from == self.to
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[usize::from(self.from)..usize::from(self.to)]
    }

    /// Of what was written, gives what was beyond it.
    fn advance(&mut self, written: usize) -> usize {
        let of_head = written.min(self.rest().len());
        self.from += u8::try_from(of_head).expect("the head has fewer bytes");
        written - of_head
    }

    fn binary(&mut self, payload_bytes: usize) {
        self.put(Sent::Binary, payload_bytes, &[]);
    }

    fn control(&mut self, sent: Sent, payload: &[u8]) {
        self.put(sent, payload.len(), payload);
    }

    fn put(&mut self, sent: Sent, length: usize, payload: &[u8]) {
        let (header, header_bytes) = frames::header(sent, length as u64, None);
        let end = header_bytes + payload.len();
        self.bytes[..header_bytes].copy_from_slice(&header[..header_bytes]);
        self.bytes[header_bytes..end].copy_from_slice(payload);
        self.from = 0;
        self.to = u8::try_from(end).expect("a control frame has at most 125 bytes");
    }
}
