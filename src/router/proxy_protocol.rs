//! The PROXY protocol: what a proxy that passes bytes on says of the client, before the client's first byte
//! (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>).

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use ppp::HeaderResult;
use ppp::PartialResult;
use ppp::v1;
use ppp::v2;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::client::Peer;
use super::greeting;

/// Bytes of the longest header that is read: addresses take 232, and what a proxy knows of TLS some hundred.
const LONGEST: usize = 4 * 1024;

/// A TLV of type PP2_TYPE_SSL begins with bits, the first of which says that the client came by TLS.
const TLS: u8 = 0x20;

/// Reads the header of a connection from `peer`, and nothing behind it.
///
/// # Errors
/// It is from nobody who may say such things, or there is none.
pub(super) async fn read(stream: &mut TcpStream, peer: IpAddr, trusted: &[IpNet]) -> io::Result<Peer> {
    if !trusted.iter().any(|network| network.contains(&peer)) {
        return Err(io::Error::other("it is not in trusted_proxies, and this listener has proxy_protocol"));
    }
    let mut header = [0; LONGEST];
    let (length, said) = greeting::peek(stream, &mut header, |bytes| judge(bytes, peer)).await??;
    stream.read_exact(&mut header[..length]).await?;
    Ok(said)
}

/// The length of the header that bytes begin with, and whom it names; none while there may be more of it.
fn judge(bytes: &[u8], peer: IpAddr) -> Option<io::Result<(usize, Peer)>> {
    let parsed = HeaderResult::parse(bytes);
    if parsed.is_incomplete() {
        return (bytes.len() == LONGEST).then(|| Err(io::Error::other("its PROXY header is too long")));
    }
    let of = |address: Option<IpAddr>, https| Peer {
        address: address.map_or(peer, |address| address.to_canonical()),
        https,
    };
    Some(match parsed {
        HeaderResult::V1(Ok(header)) => {
            let address = match header.addresses {
                v1::Addresses::Tcp4(addresses) => Some(addresses.source_address.into()),
                v1::Addresses::Tcp6(addresses) => Some(addresses.source_address.into()),
                v1::Addresses::Unknown => None,
            };
            Ok((header.header.len(), of(address, false)))
        }
        HeaderResult::V2(Ok(header)) => {
            let address = match (header.command, header.addresses) {
                (v2::Command::Proxy, v2::Addresses::IPv4(addresses)) => Some(addresses.source_address.into()),
                (v2::Command::Proxy, v2::Addresses::IPv6(addresses)) => Some(addresses.source_address.into()),
                // The proxy itself asks, or for somebody who has no address.
                (v2::Command::Local, _)
                | (v2::Command::Proxy, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
            };
            let is_tls = |tlv: &v2::TypeLengthValue<'_>| {
                tlv.kind == TLS && tlv.value.first().is_some_and(|bits| bits & 1 == 1)
            };
            let https =
                header.command == v2::Command::Proxy && header.tlvs().flatten().any(|tlv| is_tls(&tlv));
            Ok((header.len(), of(address, https)))
        }
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Err(io::Error::other(
            "it does not begin with a PROXY header, and this listener has proxy_protocol",
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(bytes: &[u8]) -> String {
        let proxy = IpAddr::from([10, 0, 0, 1]);
        match judge(bytes, proxy) {
            None => "more".to_owned(),
            Some(Err(error)) => error.to_string().split(',').next().unwrap_or_default().to_owned(),
            Some(Ok((length, peer))) => format!("{length} {} {}", peer.address, peer.https),
        }
    }

    #[test]
    fn a_header_says_who_asks_and_ends_where_the_client_begins() {
        let none = "it does not begin with a PROXY header";
        for (bytes, expected) in [
            (
                &b"PROXY TCP4 198.51.100.7 10.0.0.9 1234 443\r\nGET / HTTP/1.1\r\n"[..],
                "43 198.51.100.7 false",
            ),
            (b"PROXY TCP6 2001:db8::7 ::1 1234 443\r\n", "37 2001:db8::7 false"),
            (b"PROXY TCP6 ::ffff:198.51.100.7 ::1 1 2\r\n", "40 198.51.100.7 false"),
            (b"PROXY UNKNOWN\r\n", "15 10.0.0.1 false"),
            (b"PROXY UNKNOWN whatever it says\r\nx", "32 10.0.0.1 false"),
            (b"P", "more"),
            (b"PROXY TCP4 198.51.100.7 10.0", "more"),
            (b"GET / HTTP/1.1\r\nHost: a.b\r\n\r\n", none),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", none),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", none),
            (b"PROXY TCP4 nonsense 10.0.0.9 1234 443\r\n", none),
        ] {
            assert_eq!(said(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(said(&[&b"PROXY TCP4 "[..], &b"1".repeat(200)].concat()), none);
    }

    #[test]
    fn a_binary_header_says_more() {
        let header = |command: u8, family: u8, rest: &[u8]| {
            let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
            [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x20 | command, family], &length, rest].concat()
        };
        let four = [198, 51, 100, 7, 10, 0, 0, 9, 4, 210, 1, 187];
        let with = |more: &[u8]| header(1, 0x11, &[&four, more].concat());
        assert_eq!(said(&with(&[])), "28 198.51.100.7 false");
        assert_eq!(said(&[with(&[]), b"GET".to_vec()].concat()), "28 198.51.100.7 false");
        assert_eq!(said(&with(&[TLS, 0, 5, 1, 0, 0, 0, 0])), "36 198.51.100.7 true");
        assert_eq!(said(&with(&[TLS, 0, 5, 0, 0, 0, 0, 0])), "36 198.51.100.7 false");
        assert_eq!(said(&header(0, 0x11, &four)), "28 10.0.0.1 false");
        assert_eq!(said(&header(0, 0, &[])), "16 10.0.0.1 false");
        let six = [std::net::Ipv6Addr::LOCALHOST.octets(); 2].concat();
        assert_eq!(said(&header(1, 0x21, &[six, vec![4, 210, 1, 187]].concat())), "52 ::1 false");
        assert_eq!(said(&with(&[])[..20]), "more");
        assert_eq!(said(&with(&vec![4; 60_000])[..LONGEST]), "its PROXY header is too long");
    }
}
