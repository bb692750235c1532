//! The PROXY protocol, versions 1 and 2: a balancer in front tells the client's address in the first bytes.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use ppp::{HeaderResult, PartialResult, v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The balancer speaks at once, or is none.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A header of version 1 has at most 107 bytes, one of version 2 what its optional fields need.
const HEADER_BYTES_MAX: usize = 2048;

/// Why a connection's header was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("no PROXY header in time")]
    Timeout,
    #[error("the connection ended within the PROXY header")]
    Ended,
    #[error("the first bytes are no PROXY header")]
    Invalid,
}

/// Reads the header. Gives the client's address, unless the balancer speaks for itself (a health check), and the bytes behind the
/// header.
pub(crate) async fn read(socket: &mut TcpStream) -> Result<(Option<SocketAddr>, BytesMut), Error> {
    let mut buffer = BytesMut::with_capacity(512);
    let reading = async {
        loop {
            match socket.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return Err(Error::Ended),
                Ok(_) => {}
            }
            if let Some((address, length)) = parse(&buffer)? {
                let rest = buffer.split_off(length);
                return Ok((address, rest));
            }
            if buffer.len() >= HEADER_BYTES_MAX {
                return Err(Error::Invalid);
            }
        }
    };
    tokio::time::timeout(TIMEOUT, reading)
        .await
        .unwrap_or(Err(Error::Timeout))
}

/// The address and the length of the header; `None` while it is incomplete.
fn parse(bytes: &[u8]) -> Result<Option<(Option<SocketAddr>, usize)>, Error> {
    let result = HeaderResult::parse(bytes);
    if result.is_incomplete() {
        return Ok(None);
    }
    match result {
        HeaderResult::V1(Ok(header)) => Ok(Some((address_v1(&header), header.header.len()))),
        HeaderResult::V2(Ok(header)) => Ok(Some((address_v2(&header), header.len()))),
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Err(Error::Invalid),
    }
}

fn address_v1(header: &v1::Header<'_>) -> Option<SocketAddr> {
    match header.addresses {
        v1::Addresses::Tcp4(it) => Some((it.source_address, it.source_port).into()),
        v1::Addresses::Tcp6(it) => Some((it.source_address, it.source_port).into()),
        v1::Addresses::Unknown => None,
    }
}

fn address_v2(header: &v2::Header<'_>) -> Option<SocketAddr> {
    if header.command == v2::Command::Local {
        return None;
    }
    match header.addresses {
        v2::Addresses::IPv4(it) => Some((it.source_address, it.source_port).into()),
        v2::Addresses::IPv6(it) => Some((it.source_address, it.source_port).into()),
        v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn reads_version_1() {
        let bytes = b"PROXY TCP4 192.0.2.7 192.0.2.1 51000 1883\r\n\x10\x0c";
        let (address, length) = parse(bytes).unwrap().unwrap();
        assert_eq!(address, Some("192.0.2.7:51000".parse().unwrap()));
        assert_eq!(&bytes[length..], b"\x10\x0c");
    }

    #[test]
    fn reads_version_2() {
        let addresses = v2::IPv4::new([192, 0, 2, 7], [192, 0, 2, 1], 51000, 1883);
        let mut bytes = v2::Builder::with_addresses(
            v2::Version::Two | v2::Command::Proxy,
            v2::Protocol::Stream,
            addresses,
        )
        .build()
        .unwrap();
        let length = bytes.len();
        bytes.extend_from_slice(b"\x10\x0c");
        for cut in 0..length {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "{cut}");
        }
        let expected = (Some("192.0.2.7:51000".parse().unwrap()), length);
        assert_eq!(parse(&bytes), Ok(Some(expected)));
    }

    #[test]
    fn refuses_a_bare_connect() {
        assert_eq!(
            parse(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"),
            Err(Error::Invalid)
        );
    }
}
