//! Ends the wait for connections on a listening socket that other processes share.

use std::io;
use std::net::{Shutdown, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Wakes every thread that waits for a connection on one socket, now and later.
///
/// shutdown(2) would close the socket for the service manager too. A connection made to wake the thread is not reliable, because
/// the thread may accept a client's connection instead.
pub struct CloseSignal {
    sender: UnixStream,
    receiver: UnixStream,
}

impl CloseSignal {
    /// Returns a signal that has not been sent.
    ///
    /// # Errors
    /// Descriptors are exhausted.
    pub fn new() -> io::Result<CloseSignal> {
        let (sender, receiver) = UnixStream::pair()?;
        Ok(CloseSignal { sender, receiver })
    }

    /// Ends every current and future [`wait_for_connection`](CloseSignal::wait_for_connection).
    pub fn send(&self) {
        // The end of the stream stays readable, so the signal reaches each thread.
        let _ = self.sender.shutdown(Shutdown::Both);
    }

    /// Blocks until a connection waits on `socket` or the signal was sent. Another thread or process may still accept that
    /// connection first.
    ///
    /// # Errors
    /// Memory of the kernel is exhausted.
    pub fn wait_for_connection(&self, socket: &TcpListener) -> io::Result<()> {
        let readable = PollFlags::POLLIN;
        let mut descriptors = [
            PollFd::new(socket.as_fd(), readable),
            PollFd::new(self.receiver.as_fd(), readable),
        ];
        match poll(&mut descriptors, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
