//! The first message of TLS, from the outside: whether all of it has come. What is in it is for TLS to judge (RFC 8446, 4.1.2 and 5.1).

/// A ClientHello, its records' headers included, may be so long. Those with the largest keys and tickets have a third of it.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;

/// Record type of the handshake.
const HANDSHAKE: u8 = 22;
/// Message type of a ClientHello.
const CLIENT_HELLO: u8 = 1;
/// Type and length of a handshake message.
const MESSAGE_HEAD_BYTES: usize = 4;

/// It does not fit into [`HELLO_BYTES_MAX`], or says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a ClientHello of more than {HELLO_BYTES_MAX} bytes")]
pub struct TooLong;

/// Whether what a client sent holds its whole ClientHello, in however many records. Also true when it cannot become one: then TLS tells what
/// is wrong with it.
///
/// # Errors
/// [`TooLong`].
pub fn is_complete(bytes: &[u8]) -> Result<bool, TooLong> {
    let mut message = Message::default();
    let mut rest = bytes;
    while let Some(kind) = rest.first() {
        if *kind != HANDSHAKE {
            return Ok(true);
        }
        let [_, _, _, high, low, body @ ..] = rest else {
            break;
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length == 0 {
            return Ok(true);
        }
        let end = length.min(body.len());
        message.take(&body[..end]);
        if message.is_another() {
            return Ok(true);
        }
        match message.length() {
            Some(length) if length > HELLO_BYTES_MAX => return Err(TooLong),
            Some(length) if length <= message.came => return Ok(true),
            _ => rest = &body[end..],
        }
    }
    match bytes.len() < HELLO_BYTES_MAX {
        true => Ok(false),
        false => Err(TooLong),
    }
}

/// A message in pieces.
#[derive(Default)]
struct Message {
    head: [u8; MESSAGE_HEAD_BYTES],
    /// Bytes of it, its head included.
    came: usize,
}

impl Message {
    fn take(&mut self, piece: &[u8]) {
        let of_head = self.head.iter_mut().skip(self.came);
        for (to, from) in of_head.zip(piece) {
            *to = *from;
        }
        self.came += piece.len();
    }

    const fn is_another(&self) -> bool {
        self.came > 0 && self.head[0] != CLIENT_HELLO
    }

    /// With its head, once that is known.
    fn length(&self) -> Option<usize> {
        let [_, a, b, c] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize + MESSAGE_HEAD_BYTES;
        (self.came >= MESSAGE_HEAD_BYTES).then_some(length)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// A message that says it has so many bytes, in records of so many.
    fn hello(says: usize, record_bytes: usize) -> Vec<u8> {
        let mut message = u32::try_from(says).unwrap().to_be_bytes().to_vec();
        message[0] = CLIENT_HELLO;
        message.resize(says + MESSAGE_HEAD_BYTES, 7);
        let mut bytes = Vec::new();
        for piece in message.chunks(record_bytes) {
            let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
            bytes.extend([HANDSHAKE, 3, 1, length[0], length[1]]);
            bytes.extend(piece);
        }
        bytes
    }

    #[test]
    fn it_is_complete_with_its_last_byte_in_however_many_records() {
        for record_bytes in [1, 3, 4, 5, 100, 516, 16_000] {
            let whole = hello(512, record_bytes);
            for end in 0..whole.len() {
                assert_eq!(
                    is_complete(&whole[..end]),
                    Ok(false),
                    "{record_bytes} {end}"
                );
            }
            assert_eq!(is_complete(&whole), Ok(true), "{record_bytes}");
            assert_eq!(is_complete(&[&whole[..], b"more"].concat()), Ok(true));
        }
    }

    #[test]
    fn what_cannot_become_one_is_for_tls_to_judge() {
        let others = [
            &b"GET / HTTP/1.1"[..],
            b"\x10",
            b"\x15\x03\x01",
            b"\x16\x03\x01\0\0",
            b"\x16\x03\x01\0\x01\x02",
        ];
        for bytes in others {
            assert_eq!(is_complete(bytes), Ok(true), "{bytes:?}");
        }
    }

    #[test]
    fn one_that_is_too_long_is_told_from_its_head_or_when_it_comes() {
        let announced = hello(HELLO_BYTES_MAX, 16_000);
        assert_eq!(is_complete(&announced[..9]), Err(TooLong));
        let drips = hello(HELLO_BYTES_MAX / 2, 1);
        assert_eq!(is_complete(&drips[..HELLO_BYTES_MAX - 1]), Ok(false));
        assert_eq!(is_complete(&drips[..HELLO_BYTES_MAX]), Err(TooLong));
    }
}
