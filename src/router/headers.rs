//! Headers that must not pass the router, and those that it alone may write.

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header;
use hyper::header::HeaderName;
use hyper::header::HeaderValue;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Headers that speak about one connection (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Removes what speaks about the connection that the message came by.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        // Content-Length and Host frame and address the message itself, whatever Connection says of them.
        if *name != header::CONTENT_LENGTH && *name != header::HOST {
            headers.remove(name);
        }
    }
}

/// The client's address: the peer's, or what a proxy of our own on this machine says of it.
pub(super) fn client_address(peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    if !peer.is_loopback() {
        return peer;
    }
    let said = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let addresses: Vec<&str> = said.flat_map(|value| value.split(',')).map(str::trim).collect();
    // From the right: what stands further left was said by whoever asked the proxy.
    let found = addresses.iter().rev().map_while(|address| address.parse::<IpAddr>().ok());
    found.into_iter().find(|address| !address.is_loopback()).unwrap_or(peer)
}

/// Writes the X-Forwarded headers anew; Synapse believes the first address that it finds.
pub(super) fn forwarded(headers: &mut HeaderMap, peer: IpAddr, client: IpAddr) {
    let mut said = headers.get_all(FORWARDED_PROTO).iter();
    let https = said.next().is_some_and(|value| value == "https") && said.next().is_none();
    let proto = HeaderValue::from_static(if https && peer.is_loopback() { "https" } else { "http" });
    headers.remove(FORWARDED_HOST);
    headers.remove(header::FORWARDED);
    headers.insert(FORWARDED_PROTO, proto);
    if let Ok(value) = HeaderValue::try_from(client.to_string()) {
        headers.insert(FORWARDED_FOR, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_connection_names_goes_and_what_frames_the_message_stays() {
        // Mutation: the names in Connection ignored: seen red.
        let mut headers = map(&[
            ("connection", "keep-alive, X-Secret, content-length, host"),
            ("x-secret", "1"),
            ("content-length", "3"),
            ("host", "h"),
            ("te", "trailers"),
            ("accept", "*/*"),
        ]);
        remove_hop_by_hop(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-length", "host"]);
    }

    #[test]
    fn only_a_proxy_on_this_machine_is_believed_and_only_its_own_word() {
        // Mutations: the leftmost address taken, a stranger believed: each seen red.
        let (local, stranger) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([203, 0, 113, 9]));
        let forged = map(&[("x-forwarded-for", "6.6.6.6, 198.51.100.7"), ("x-forwarded-for", "127.0.0.1")]);
        assert_eq!(client_address(local, &forged), IpAddr::from([198, 51, 100, 7]));
        assert_eq!(client_address(stranger, &forged), stranger);
        assert_eq!(client_address(local, &map(&[("x-forwarded-for", "1.2.3.4, nonsense")])), local);
        assert_eq!(client_address(local, &map(&[])), local);

        let mut headers =
            map(&[("x-forwarded-proto", "https"), ("x-forwarded-host", "evil"), ("forwarded", "for=1")]);
        forwarded(&mut headers, stranger, stranger);
        assert_eq!(headers, map(&[("x-forwarded-proto", "http"), ("x-forwarded-for", "203.0.113.9")]));
        let mut twice = map(&[("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")]);
        forwarded(&mut twice, local, stranger);
        assert_eq!(twice["x-forwarded-proto"], "http");
        let mut headers = map(&[("x-forwarded-proto", "https")]);
        forwarded(&mut headers, local, stranger);
        assert_eq!(headers, map(&[("x-forwarded-proto", "https"), ("x-forwarded-for", "203.0.113.9")]));
    }
}
