//! A network connection that carries packets and knows nothing of what they mean.

use std::fmt;
use std::io;
use std::num::NonZeroU32;

use bytes::{Buf, BytesMut};
use magpie_codec::{
    DecodeError, Decoder, EncodeError, Limits, Packet, ProtocolVersion, VARIABLE_INT_MAX, encode,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpStream, ToSocketAddrs};

use crate::{Error, Tls};

/// Packets in and packets out, for tests of the protocol: no rule about their order or their identifiers is kept here.
pub struct Connection {
    pub(crate) reader: PacketReader,
    pub(crate) writer: PacketWriter,
}

impl Connection {
    /// Connects to a server, to speak this version. Nothing is sent.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn open(address: impl ToSocketAddrs, version: ProtocolVersion) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        Self::tcp(stream, Decoder::client(version, limits()), Some(version))
    }

    /// The same over TLS, with a server that has a certificate for this host.
    ///
    /// # Errors
    /// What the operating system or the handshake says.
    pub async fn open_tls(
        tls: &Tls,
        (host, port): (&str, u16),
        version: ProtocolVersion,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let (read_half, write_half) = split(tls.handshake(host, stream).await?);
        let decoder = Decoder::client(version, limits());
        let mut this = Self::new(
            Box::new(read_half),
            Box::new(write_half),
            decoder,
            Some(version),
        );
        this.writer.has_own_buffer = true;
        Ok(this)
    }

    /// The server's end of a connection, for a scripted peer. It speaks the version of the CONNECT that it receives.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn accepted(stream: TcpStream) -> io::Result<Self> {
        Self::tcp(stream, Decoder::server(limits()), None)
    }

    fn tcp(
        stream: TcpStream,
        decoder: Decoder,
        version: Option<ProtocolVersion>,
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (read_half, write_half) = stream.into_split();
        Ok(Self::new(
            Box::new(read_half),
            Box::new(write_half),
            decoder,
            version,
        ))
    }

    fn new(
        read_half: Box<dyn AsyncRead + Send + Unpin>,
        write_half: Box<dyn AsyncWrite + Send + Unpin>,
        decoder: Decoder,
        version: Option<ProtocolVersion>,
    ) -> Self {
        Self {
            reader: PacketReader {
                half: read_half,
                decoder,
                buf: BytesMut::new(),
            },
            writer: PacketWriter {
                half: write_half,
                version,
                packet_bytes_max: None,
                buf: BytesMut::new(),
                has_own_buffer: false,
                is_unflushed: false,
            },
        }
    }

    /// Sends a packet, and what was [queued](Self::queue) before it.
    ///
    /// # Errors
    /// [`Error::Encode`] or [`Error::Io`].
    pub async fn send(&mut self, packet: &Packet) -> Result<(), Error> {
        self.queue(packet)?;
        self.flush().await
    }

    /// Appends a packet to those that the next [`flush`](Self::flush) sends in one write.
    ///
    /// # Errors
    /// When the packet cannot be encoded.
    pub fn queue(&mut self, packet: &Packet) -> Result<(), EncodeError> {
        if self.writer.version.is_none() {
            self.writer.version = self.reader.decoder.version();
        }
        self.writer.queue(packet)
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn flush(&mut self) -> Result<(), Error> {
        while self.writer.has_queued() {
            self.writer.write_some().await?;
        }
        Ok(())
    }

    /// Sends bytes as they are, right or wrong, behind what is queued.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.writer.buf.extend_from_slice(bytes);
        self.flush().await
    }

    /// The next packet; `None` when the other end closed the connection. Loses nothing when cancelled.
    ///
    /// # Errors
    /// [`Error::Decode`] or [`Error::Io`].
    pub async fn recv(&mut self) -> Result<Option<Packet>, Error> {
        self.reader.recv().await
    }

    /// Closes the sending direction: the other end reads what was sent, then the end of the stream.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn shutdown(&mut self) -> Result<(), Error> {
        Ok(self.writer.half.shutdown().await?)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// The receiving half.
pub(crate) struct PacketReader {
    half: Box<dyn AsyncRead + Send + Unpin>,
    decoder: Decoder,
    buf: BytesMut,
}

impl PacketReader {
    pub(crate) async fn recv(&mut self) -> Result<Option<Packet>, Error> {
        loop {
            if let Some(packet) = self.buffered()? {
                return Ok(Some(packet));
            }
            self.buf.reserve(READ_BYTES);
            if self.half.read_buf(&mut self.buf).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// The next packet, if it was read already.
    pub(crate) fn buffered(&mut self) -> Result<Option<Packet>, DecodeError> {
        self.decoder.decode(&mut self.buf)
    }

    /// Reads and forgets until the other end closes the connection or breaks it.
    pub(crate) async fn discard_rest(&mut self) {
        self.buf.clear();
        self.buf.reserve(READ_BYTES);
        while let Ok(1..) = self.half.read_buf(&mut self.buf).await {
            self.buf.clear();
        }
    }
}

/// The sending half. Its buffer is bounded by who queues.
pub(crate) struct PacketWriter {
    half: Box<dyn AsyncWrite + Send + Unpin>,
    /// `None`: a scripted server that has not heard CONNECT yet.
    version: Option<ProtocolVersion>,
    /// The other end's Maximum Packet Size.
    pub(crate) packet_bytes_max: Option<NonZeroU32>,
    buf: BytesMut,
    /// What was written may wait in the half itself: TLS.
    has_own_buffer: bool,
    is_unflushed: bool,
}

impl PacketWriter {
    pub(crate) fn queue(&mut self, packet: &Packet) -> Result<(), EncodeError> {
        let version = self.version.unwrap_or(ProtocolVersion::V5);
        encode(version, packet, self.packet_bytes_max, &mut self.buf)
    }

    pub(crate) fn has_queued(&self) -> bool {
        !self.buf.is_empty() || self.is_unflushed
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.buf.len()
    }

    /// Waits until the socket took some of what is queued. Loses nothing when cancelled.
    pub(crate) async fn write_some(&mut self) -> io::Result<()> {
        if self.buf.is_empty() {
            self.half.flush().await?;
            self.is_unflushed = false;
            return Ok(());
        }
        let written = self.half.write(&self.buf).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.buf.advance(written);
        self.is_unflushed = self.has_own_buffer;
        Ok(())
    }

    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        self.half.shutdown().await
    }
}

const READ_BYTES: usize = 16 * 1024;

/// A client asks for what it gets, so only the protocol limits it.
fn limits() -> Limits {
    const FIXED_HEADER_BYTES_MAX: usize = 5;
    Limits {
        packet_bytes_max: VARIABLE_INT_MAX as usize + FIXED_HEADER_BYTES_MAX,
        ..Limits::default()
    }
}
