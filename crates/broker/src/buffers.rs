//! Read and write buffers that connections borrow while they have something to read or write.
//!
//! A connection that is idle owns none. The buffers belong to the worker thread: between taking and giving back there is no await, so
//! there is at most one of each kind in use per thread.

use std::cell::Cell;

use bytes::BytesMut;

/// Bytes that one read may bring: enough for hundreds of small packets, small enough to stay in the cache.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// A payload up to this size is copied out of the read buffer before it is kept: a slice would pin the whole buffer. A larger one pins
/// at most four times its size.
pub(crate) const SLICE_BYTES_MIN: usize = READ_BYTES / 4;

/// A write buffer that grew beyond this is not kept.
const KEPT_BYTES_MAX: usize = 256 * 1024;

thread_local! {
    static READ: Cell<BytesMut> = Cell::new(BytesMut::new());
    static WRITE: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// An empty buffer with room for [`READ_BYTES`].
pub(crate) fn take_read() -> BytesMut {
    let mut buffer = READ.take();
    buffer.clear();
    // Room that no slice uses any more is taken back here, without an allocation.
    buffer.reserve(READ_BYTES);
    buffer
}

/// Gives a read buffer back.
pub(crate) fn give_read(buffer: BytesMut) {
    READ.set(buffer);
}

/// An empty write buffer.
pub(crate) fn take_write() -> BytesMut {
    let mut buffer = WRITE.take();
    buffer.clear();
    buffer
}

/// Gives a write buffer back.
pub(crate) fn give_write(buffer: BytesMut) {
    if buffer.capacity() <= KEPT_BYTES_MAX {
        WRITE.set(buffer);
    }
}
