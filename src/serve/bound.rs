//! The address of a service, taken before what it serves is loaded.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpSocket;

use super::connection::Listener;
use crate::error::{Error, ErrorKind, Result, kind_of_io};

/// An address that is bound, at which nothing listens yet: clients are refused, as where there is no service.
///
/// Loading a snapshot and its tower takes seconds to minutes. That the port is taken should be told before, and clients
/// should be let in after.
#[derive(Debug)]
pub struct Bound {
    socket: TcpSocket,
    address: SocketAddr,
}

impl Bound {
    /// Binds the address.
    ///
    /// # Errors
    /// Input where the address is taken or not this machine's.
    pub fn at(address: SocketAddr) -> Result<Self> {
        bind(address).map_err(|cause| refused(address, cause))
    }

    /// Where it is: the port that was chosen where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets clients in.
    ///
    /// # Errors
    /// As [`Bound::at`]: of several that bound the same port before any of them listened, one gets it.
    pub(super) fn listen(self) -> Result<Listener> {
        let address = self.address;
        Listener::new(self.socket).map_err(|cause| refused(address, cause))
    }
}

fn bind(address: SocketAddr) -> io::Result<Bound> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections of a server that has ended do not keep the port. On Windows this would share it with one that has not.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let address = socket.local_addr()?;
    Ok(Bound { socket, address })
}

fn refused(address: SocketAddr, cause: io::Error) -> Error {
    let kind = match kind_of_io(&cause) {
        ErrorKind::NotFound | ErrorKind::Transient => ErrorKind::Input,
        kind => kind,
    };
    Error::new(kind, format!("cannot listen on {address}; choose another with --bind"))
        .with_source(cause)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn clients_are_refused_until_it_listens_and_others_from_then_on() {
        let bound = Bound::at("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = bound.address();
        let early = TcpStream::connect(address).unwrap_err();
        assert_eq!(early.kind(), io::ErrorKind::ConnectionRefused);
        let _listener = bound.listen().unwrap();
        TcpStream::connect(address).unwrap();
        let taken = Bound::at(address).unwrap_err();
        let said = format!("cannot listen on {address}; choose another with --bind");
        assert_eq!((taken.kind(), taken.message()), (ErrorKind::Input, &*said));
    }
}
