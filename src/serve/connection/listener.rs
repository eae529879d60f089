//! Takes connections in, each as soon as there is a place for it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::table::{Connections, Place};

/// Pause after the system gave no connection.
const PAUSE: Duration = Duration::from_millis(50);
/// Connections that the system keeps until they are taken in.
const BACKLOG: u32 = 128;
/// Bytes of an answer that the system holds for a client that does not take them.
#[cfg(target_os = "linux")]
const UNSENT: i32 = 64 << 10;

#[derive(Debug)]
pub(in crate::serve) struct Listener(TcpListener);

impl Listener {
    /// Listens on a socket that is bound.
    pub fn new(socket: TcpSocket) -> io::Result<Self> {
        let listener = socket.listen(BACKLOG)?;
        bound_unsent(&listener);
        Ok(Self(listener))
    }

    /// The next connection, with its place.
    pub async fn next(&self, all: &Arc<Connections>) -> (TcpStream, Place) {
        loop {
            match self.0.accept().await {
                Ok((stream, from)) => {
                    let place = all.admit(from.ip()).await;
                    // Answers are written whole: waiting for more to send only delays them.
                    if stream.set_nodelay(true).is_ok() {
                        return (stream, place);
                    }
                }
                // It was gone before it was taken in.
                Err(cause) if cause.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    let closed = all.shed();
                    tracing::warn!(%error, closed, "no connection can be taken in for now");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Bounds what the system keeps of answers that nobody reads, which would be megabytes for each connection; what is under
/// way does not count, so that it slows nobody down. Connections inherit it. A system that refuses does without.
#[cfg(target_os = "linux")]
fn bound_unsent(socket: &TcpListener) {
    use std::os::fd::AsRawFd;
    let (unsent, length) = (UNSENT, size_of::<libc::c_int>() as libc::socklen_t);
    let (level, option) = (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT);
    // SAFETY: reads one integer that outlives the call, of the length that is said; the socket is open.
    unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const unsent).cast(), length);
    }
}

#[cfg(not(target_os = "linux"))]
fn bound_unsent(_socket: &TcpListener) {}
