//! The PROXY protocol, versions 1 and 2: a balancer in front tells the client's address in the first bytes.

use core::net::SocketAddr;

use ppp::{HeaderResult, PartialResult, v1, v2};

/// The longest header that is taken. One of version 1 has at most 107 bytes, one of version 2 what its optional fields need.
pub const HEADER_BYTES_MAX: usize = 2048;

const VERSION_1_BYTES_MAX: usize = 107;

/// The first bytes are no PROXY header, or one that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the first bytes are no PROXY header")]
pub struct Invalid;

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client; `None` when the balancer speaks for itself (a health check).
    pub client: Option<SocketAddr>,
    /// Bytes of the header; what follows is the client's.
    pub length: usize,
}

/// The header at the beginning of what came; `None` while it is incomplete.
///
/// # Errors
/// Whatever follows, it cannot become one.
pub fn parse(bytes: &[u8]) -> Result<Option<ProxyHeader>, Invalid> {
    if bytes.starts_with(b"PROXY") && !bytes.windows(2).any(|pair| pair == b"\r\n") {
        // The library takes a line that is cut behind a blank for a wrong one.
        let has_room = bytes.len() < VERSION_1_BYTES_MAX;
        return if has_room { Ok(None) } else { Err(Invalid) };
    }
    let result = HeaderResult::parse(bytes);
    if result.is_incomplete() {
        let has_room = bytes.len() < HEADER_BYTES_MAX;
        return if has_room { Ok(None) } else { Err(Invalid) };
    }
    let (client, length) = match result {
        HeaderResult::V1(Ok(header)) => (client_v1(&header), header.header.len()),
        HeaderResult::V2(Ok(header)) => (client_v2(&header), header.len()),
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => return Err(Invalid),
    };
    if length > HEADER_BYTES_MAX {
        return Err(Invalid);
    }
    Ok(Some(ProxyHeader { client, length }))
}

fn client_v1(header: &v1::Header<'_>) -> Option<SocketAddr> {
    match header.addresses {
        v1::Addresses::Tcp4(it) => Some((it.source_address, it.source_port).into()),
        v1::Addresses::Tcp6(it) => Some((it.source_address, it.source_port).into()),
        v1::Addresses::Unknown => None,
    }
}

fn client_v2(header: &v2::Header<'_>) -> Option<SocketAddr> {
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

    fn version_2(command: v2::Command) -> Vec<u8> {
        let addresses = v2::IPv4::new([192, 0, 2, 7], [192, 0, 2, 1], 51000, 1883);
        v2::Builder::with_addresses(v2::Version::Two | command, v2::Protocol::Stream, addresses)
            .build()
            .unwrap()
    }

    /// The header is found whole, and however it is cut; what follows is not looked at.
    fn check(header: &[u8], client: Option<&str>) {
        for cut in 0..header.len() {
            assert_eq!(parse(&header[..cut]), Ok(None), "{cut}");
        }
        let mut bytes = header.to_vec();
        bytes.extend_from_slice(b"\x10\x0c");
        let found = parse(&bytes).unwrap().unwrap();
        assert_eq!(found.client, client.map(|it| it.parse().unwrap()));
        assert_eq!(found.length, header.len());
    }

    #[test]
    fn reads_version_1() {
        let tcp4 = b"PROXY TCP4 192.0.2.7 192.0.2.1 51000 1883\r\n";
        check(tcp4, Some("192.0.2.7:51000"));
        let tcp6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 51000 1883\r\n";
        check(tcp6, Some("[2001:db8::7]:51000"));
        check(b"PROXY UNKNOWN\r\n", None);
    }

    #[test]
    fn reads_version_2() {
        check(&version_2(v2::Command::Proxy), Some("192.0.2.7:51000"));
        check(&version_2(v2::Command::Local), None);
        let addresses = v2::IPv6::new(
            [0x2001_0db8_u128 << 96 | 7; 1].map(u128::to_be_bytes)[0],
            [0; 16],
            51000,
            1883,
        );
        let header = v2::Builder::with_addresses(
            v2::Version::Two | v2::Command::Proxy,
            v2::Protocol::Stream,
            addresses,
        );
        check(&header.build().unwrap(), Some("[2001:db8::7]:51000"));
    }

    #[test]
    fn refuses_what_is_none() {
        for bytes in [
            &b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"[..],
            b"PROXY TCP4 192.0.2.7 192.0.2.1 51000 188333\r\n",
            b"GET /mqtt HTTP/1.1\r\n",
        ] {
            assert_eq!(parse(bytes), Err(Invalid));
        }
    }

    #[test]
    fn a_header_may_not_be_too_long() {
        let mut bytes = version_2(v2::Command::Proxy);
        bytes[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        bytes.resize(HEADER_BYTES_MAX, 0);
        assert_eq!(parse(&bytes), Err(Invalid));
        bytes.resize(16 + usize::from(u16::MAX), 0);
        assert_eq!(parse(&bytes), Err(Invalid));
    }
}
