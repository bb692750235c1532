//! Where the fields of a packet are written: once to measure it, once into the buffer, by the same code.

use bytes::{BufMut, BytesMut};

use crate::{EncodeError, Text, VARIABLE_INT_MAX};

/// Takes the fields of a packet in their order.
pub(crate) trait Sink {
    fn u8(&mut self, value: u8);
    fn u16(&mut self, value: u16);
    fn u32(&mut self, value: u32);
    fn raw(&mut self, bytes: &[u8]);
    /// Notes that the packet cannot be sent. Only [`Measure`] is told: what it refuses is never written.
    fn refuse(&mut self, why: &'static str);

    fn variable_int(&mut self, mut value: u32) {
        if value > VARIABLE_INT_MAX {
            return self.refuse("a variable byte integer is above 268,435,455");
        }
        while value > 0x7f {
            self.u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.u8(value as u8);
    }

    fn binary(&mut self, bytes: &[u8]) {
        match u16::try_from(bytes.len()) {
            Ok(length) => {
                self.u16(length);
                self.raw(bytes);
            }
            Err(_) => self.refuse("a field is longer than 65,535 bytes"),
        }
    }

    fn text(&mut self, text: &Text) {
        // A text is never too long.
        self.u16(text.len() as u16);
        self.raw(text.as_bytes());
    }
}

/// Counts the bytes and finds what cannot be written.
#[derive(Default)]
pub(crate) struct Measure {
    bytes: usize,
    refusal: Option<&'static str>,
}

impl Measure {
    /// The number of bytes so far.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of bytes of what was put, or why it cannot be sent.
    pub(crate) fn finish(self) -> Result<usize, EncodeError> {
        match self.refusal {
            None => Ok(self.bytes),
            Some(why) => Err(EncodeError::Invalid(why)),
        }
    }
}

impl Sink for Measure {
    fn u8(&mut self, _: u8) {
        self.bytes += 1;
    }

    fn u16(&mut self, _: u16) {
        self.bytes += 2;
    }

    fn u32(&mut self, _: u32) {
        self.bytes += 4;
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
    }

    fn refuse(&mut self, why: &'static str) {
        self.refusal = Some(why);
    }
}

impl Sink for BytesMut {
    fn u8(&mut self, value: u8) {
        self.put_u8(value);
    }

    fn u16(&mut self, value: u16) {
        self.put_u16(value);
    }

    fn u32(&mut self, value: u32) {
        self.put_u32(value);
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn refuse(&mut self, why: &'static str) {
        unreachable!("measured before: {why}");
    }
}
