//! WebSocket frames: what they carry, taken out of them where it lies.
//!
//! For MQTT the messages and fragments of WebSocket mean nothing: the payloads of all binary frames are one stream of bytes
//! [MQTT-6.0.0-2], [MQTT-6.0.0-2 v3.1.1]. So nothing is ever put together or kept, however long a frame is.

use std::fmt;

/// Bytes in a control frame, by the protocol.
const CONTROL_BYTES_MAX: usize = 125;

/// The longest header.
pub const HEADER_BYTES_MAX: usize = 14;

/// Whose frames are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Masked.
    Client,
    /// Not masked.
    Server,
}

/// Why a connection must be closed. Tells the code for the Close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Against RFC 6455.
    #[error("frames against the protocol")]
    Protocol,
    /// A text frame.
    #[error("a text frame")]
    Text,
    /// A frame beyond the limit.
    #[error("a frame that is too long")]
    TooLong,
}

impl Violation {
    /// As in a Close frame.
    #[must_use]
    pub const fn close_code(self) -> u16 {
        match self {
            Self::Protocol => 1002,
            Self::Text => 1003,
            Self::TooLong => 1009,
        }
    }
}

/// Payload of a control frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ControlPayload {
    bytes: [u8; CONTROL_BYTES_MAX],
    length: u8,
}

impl ControlPayload {
    const EMPTY: Self = Self {
        bytes: [0; CONTROL_BYTES_MAX],
        length: 0,
    };

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    fn push(&mut self, byte: u8) {
        // What is longer was refused with its header.
        if let Some(place) = self.bytes.get_mut(usize::from(self.length)) {
            *place = byte;
            self.length += 1;
        }
    }
}

impl fmt::Debug for ControlPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.length)
    }
}

/// What frames that are no data said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// The last of the Pings: to be answered by a Pong with its payload. That the earlier ones are not answered is allowed.
    Ping(ControlPayload),
    /// The other side has said its last. With the code, if there is one.
    Close(Option<u16>),
}

/// Takes payloads out of frames.
#[derive(Debug)]
pub struct Deframer {
    from: From,
    frame_bytes_max: u64,
    header: [u8; HEADER_BYTES_MAX],
    header_length: u8,
    frame: Option<Frame>,
    /// Between the first and the last fragment of a message.
    is_in_message: bool,
    control: ControlPayload,
    heard: Option<Control>,
}

/// The frame that is being read.
#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: Kind,
    left: u64,
    mask: [u8; 4],
    /// Of the mask, the byte for the next byte.
    mask_at: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Ping,
    Pong,
    Close,
}

impl Deframer {
    /// Of a connection that has just been upgraded. A longer frame than `frame_bytes_max` is refused at its header.
    #[must_use]
    pub const fn new(from: From, frame_bytes_max: u64) -> Self {
        Self {
            from,
            frame_bytes_max,
            header: [0; HEADER_BYTES_MAX],
            header_length: 0,
            frame: None,
            is_in_message: false,
            control: ControlPayload::EMPTY,
            heard: None,
        }
    }

    /// Takes the next bytes of the connection, and moves the payload in them to their beginning; gives its length. A frame may begin and
    /// end anywhere in them. What came after a Close is dropped.
    ///
    /// # Errors
    /// The connection is to be closed, and nothing more is to be read.
    pub fn take(&mut self, bytes: &mut [u8]) -> Result<usize, Violation> {
        let mut from = 0;
        let mut to = 0;
        while from < bytes.len() && !matches!(self.heard, Some(Control::Close(_))) {
            let Some(mut frame) = self.frame.take() else {
                self.take_header_byte(bytes[from])?;
                from += 1;
                continue;
            };
            let rest = bytes.len() - from;
            let count = usize::try_from(frame.left).map_or(rest, |left| left.min(rest));
            let payload = &mut bytes[from..from + count];
            frame.unmask(payload);
            if frame.kind == Kind::Data {
                bytes.copy_within(from..from + count, to);
                to += count;
            } else {
                payload.iter().for_each(|byte| self.control.push(*byte));
            }
            from += count;
            frame.left -= count as u64;
            self.go_on(frame)?;
        }
        Ok(to)
    }

    /// What was said beside the data since it was asked last; a Close stays.
    pub fn heard(&mut self) -> Option<Control> {
        match self.heard {
            Some(Control::Ping(_)) => self.heard.take(),
            close => close,
        }
    }

    fn take_header_byte(&mut self, byte: u8) -> Result<(), Violation> {
        self.header[usize::from(self.header_length)] = byte;
        self.header_length += 1;
        let header = self.header;
        let header = &header[..usize::from(self.header_length)];
        if header.len() < 2 {
            return Ok(());
        }
        let (length_bytes, short) = match header[1] & 0x7f {
            126 => (2, 0),
            127 => (8, 0),
            short => (0, u64::from(short)),
        };
        let is_masked = header[1] & 0x80 != 0;
        let mask_bytes = if is_masked { 4 } else { 0 };
        if header.len() < 2 + length_bytes + mask_bytes {
            return Ok(());
        }
        let (length, mask) = header[2..].split_at(length_bytes);
        let long = length
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let left = if length_bytes == 0 { short } else { long };
        let kind = self.check(header[0], is_masked, left)?;
        let frame = Frame {
            kind,
            left,
            mask: mask.try_into().unwrap_or_default(),
            mask_at: 0,
        };
        self.header_length = 0;
        self.control.length = 0;
        self.go_on(frame)
    }

    /// Whether this frame may come now.
    fn check(&mut self, first: u8, is_masked: bool, length: u64) -> Result<Kind, Violation> {
        let is_final = first & 0x80 != 0;
        let has_extension = first & 0x70 != 0;
        if has_extension || is_masked != (self.from == From::Client) || length > u64::MAX >> 1 {
            return Err(Violation::Protocol);
        }
        let opcode = first & 0x0f;
        if opcode >= 8 && (!is_final || length > CONTROL_BYTES_MAX as u64) {
            return Err(Violation::Protocol);
        }
        match (opcode, self.is_in_message) {
            // [MQTT-6.0.0-1], [MQTT-6.0.0-1 v3.1.1]: other data than binary ends the connection.
            (1, _) => return Err(Violation::Text),
            (0, true) | (2, false) => {}
            (8, _) => {
                return if length == 1 {
                    Err(Violation::Protocol)
                } else {
                    Ok(Kind::Close)
                };
            }
            (9, _) => return Ok(Kind::Ping),
            (10, _) => return Ok(Kind::Pong),
            _ => return Err(Violation::Protocol),
        }
        if length > self.frame_bytes_max {
            return Err(Violation::TooLong);
        }
        self.is_in_message = !is_final;
        Ok(Kind::Data)
    }

    /// Goes on with a frame, or ends it.
    fn go_on(&mut self, frame: Frame) -> Result<(), Violation> {
        if frame.left > 0 {
            self.frame = Some(frame);
            return Ok(());
        }
        match frame.kind {
            Kind::Data | Kind::Pong => {}
            Kind::Ping => self.heard = Some(Control::Ping(self.control)),
            Kind::Close => {
                let code = self.control.bytes().first_chunk();
                self.heard = Some(Control::Close(code.map(|code| u16::from_be_bytes(*code))));
            }
        }
        Ok(())
    }
}

impl Frame {
    fn unmask(&mut self, payload: &mut [u8]) {
        if self.mask == [0; 4] {
            return;
        }
        self.mask_at = apply_mask(self.mask, self.mask_at, payload);
    }
}

/// Masks or unmasks bytes of a frame, from the mask's byte `at` on; gives the one for the next.
pub fn apply_mask(mask: [u8; 4], at: u8, payload: &mut [u8]) -> u8 {
    let mut turned = mask;
    turned.rotate_left(usize::from(at % 4));
    // Eight at a time: the compiler makes wide instructions of it.
    let wide = [turned, turned].concat();
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        chunk
            .iter_mut()
            .zip(&wide)
            .for_each(|(byte, mask)| *byte ^= mask);
    }
    let rest = chunks.into_remainder();
    rest.iter_mut()
        .zip(&wide)
        .for_each(|(byte, mask)| *byte ^= mask);
    let rest = u8::try_from(rest.len()).expect("less than eight");
    (at + rest) % 4
}

/// What a frame that is sent is. Each is a message of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Sent {
    /// Bytes of MQTT.
    Binary = 2,
    /// The last.
    Close = 8,
    /// Asks for a Pong.
    Ping = 9,
    /// The answer to a Ping.
    Pong = 10,
}

/// The header of a frame, and its length. With a mask from a client, and without from a server.
#[must_use]
pub fn header(sent: Sent, length: u64, mask: Option<[u8; 4]>) -> ([u8; HEADER_BYTES_MAX], usize) {
    let mut header = [0; HEADER_BYTES_MAX];
    header[0] = 0x80 | sent as u8;
    let mut end = 2;
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..126), _) => header[1] = short,
        (_, Ok(middle)) => {
            header[1] = 126;
            header[2..4].copy_from_slice(&middle.to_be_bytes());
            end = 4;
        }
        _ => {
            header[1] = 127;
            header[2..10].copy_from_slice(&length.to_be_bytes());
            end = 10;
        }
    }
    if let Some(mask) = mask {
        header[1] |= 0x80;
        header[end..end + 4].copy_from_slice(&mask);
        end += 4;
    }
    (header, end)
}

#[cfg(test)]
mod tests;
