//! A connection's read buffer, used again and again.

use anyhow::bail;

/// Bytes that were read and not yet understood, with room behind them.
#[derive(Debug)]
pub(super) struct ReadBuf {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

const FIRST_BYTES: usize = 8 * 1024;
/// A buffer that a read fills grows up to this; for a packet that does not fit, further.
const USUAL_BYTES_MAX: usize = 128 * 1024;

impl ReadBuf {
    /// A buffer that holds what was read before it.
    pub(super) fn new(read: &[u8]) -> Self {
        let mut bytes = read.to_vec();
        bytes.resize(FIRST_BYTES.max(2 * read.len()), 0);
        Self {
            bytes,
            start: 0,
            end: read.len(),
        }
    }

    /// Where the next read goes; never empty.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            let was_full = self.end == self.bytes.len();
            (self.start, self.end) = (0, 0);
            if was_full && self.bytes.len() < USUAL_BYTES_MAX {
                self.bytes.resize(2 * self.bytes.len(), 0);
            }
        } else if self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end > self.bytes.len() / 2 {
                self.bytes.resize(2 * self.bytes.len(), 0);
            }
        }
        &mut self.bytes[self.end..]
    }

    /// Takes note of how many bytes a read put into [`space`](Self::space).
    ///
    /// # Errors
    /// At the end of the stream.
    pub(super) fn filled(&mut self, bytes: usize) -> anyhow::Result<()> {
        if bytes == 0 {
            bail!("the server closed the connection");
        }
        self.end += bytes;
        Ok(())
    }

    /// What waits to be understood.
    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Drops bytes from the front of [`unread`](Self::unread).
    pub(super) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// Whatever the sizes of reads and packets, the bytes come out as they went in.
    #[test]
    fn bytes_pass_in_order() {
        let mut buf = ReadBuf::new(&[0, 1, 2]);
        let (mut written, mut read) = (3u64, 0u64);
        for round in 1..2000usize {
            let space = buf.space();
            let count = space.len().min(round * 37 % 9000 + 1);
            for byte in &mut space[..count] {
                *byte = written as u8;
                written += 1;
            }
            buf.filled(count).unwrap();
            let take = buf.unread().len().min(round * 53 % 9100);
            for byte in &buf.unread()[..take] {
                assert_eq!(*byte, read as u8);
                read += 1;
            }
            buf.consume(take);
        }
        assert!(written > 1_000_000 && written - read < 1 << 20);
        assert!(buf.filled(0).is_err());
    }
}
