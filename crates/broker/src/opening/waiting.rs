//! Waiting for what begins a connection while it stays in the kernel: who sends half of it costs no buffer of this process.

use std::io;
use std::mem::MaybeUninit;
use std::task::{Context, Poll, Waker};

use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;

/// Resolves when `is_enough` of the first `BYTES_MAX` bytes says so, or nothing more will come; takes none of them. Looks again at all of
/// them whenever some come.
///
/// # Errors
/// Those of the socket, and of `is_enough`.
pub(super) async fn wait_for<const BYTES_MAX: usize>(
    socket: &TcpStream,
    mut is_enough: impl FnMut(&[u8]) -> io::Result<bool>,
) -> io::Result<()> {
    loop {
        let is_last = socket.ready(Interest::READABLE).await?.is_read_closed();
        let looked = socket.try_io(Interest::READABLE, || {
            // On the stack, and only until it was looked at.
            let mut room = [MaybeUninit::uninit(); BYTES_MAX];
            let mut buffer = ReadBuf::uninit(&mut room);
            let mut context = Context::from_waker(Waker::noop());
            match socket.poll_peek(&mut context, &mut buffer) {
                Poll::Ready(came) => drop(came?),
                Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
            }
            let bytes = buffer.filled();
            match is_last || bytes.is_empty() || is_enough(bytes)? {
                true => Ok(()),
                // The socket counts as readable again when more comes.
                false => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        match looked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            outcome => return outcome,
        }
    }
}
