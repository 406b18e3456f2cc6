//! Headers that must not pass the router, and those that it alone may write.

use std::net::IpAddr;
use std::net::SocketAddr;

use hyper::HeaderMap;
use hyper::header;
use hyper::header::HeaderName;
use hyper::header::HeaderValue;
use ipnet::IpNet;

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

/// Who connected, or whom the PROXY protocol names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    /// Whether it came by TLS.
    pub(super) https: bool,
}

/// Who asks, and what is known of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) address: IpAddr,
    /// How many addresses of X-Forwarded-For were believed; 0 if it is the peer.
    pub(super) believed: usize,
    /// Whether it spoke TLS, to the proxy that is believed or to us.
    https: bool,
}

impl Client {
    /// The peer, or whom a trusted proxy names; from the right, since what stands further left was said by whoever asked
    /// the proxy.
    pub(super) fn of(peer: Peer, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        // A socket that listens on [::] shows IPv4 in IPv6's clothes.
        let address = peer.address.to_canonical();
        let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
        if !is_trusted(address) {
            return Self { address, believed: 0, https: peer.https };
        }
        let lines = headers.get_all(FORWARDED_FOR).iter().rev();
        let said = lines.flat_map(|value| value.to_str().unwrap_or("?").rsplit(','));
        let (mut address, mut believed) = (address, 0);
        // Behind something that is no address nothing is known any more.
        for next in said.map_while(|text| parse(text.trim())) {
            address = next;
            believed += 1;
            if !is_trusted(next) {
                break;
            }
        }
        let mut protocols = headers.get_all(FORWARDED_PROTO).iter();
        let https = match (protocols.next(), protocols.next()) {
            (None, _) => peer.https,
            (Some(protocol), None) => protocol == "https",
            (Some(_), Some(_)) => false,
        };
        Self { address, believed, https }
    }
}

/// An address, with or without a port.
fn parse(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    text.parse().ok().or_else(with_port).or_else(in_brackets).map(|address: IpAddr| address.to_canonical())
}

/// Writes the X-Forwarded headers anew; Synapse believes the first address that it finds.
pub(super) fn forwarded(headers: &mut HeaderMap, client: Client) {
    headers.remove(FORWARDED_HOST);
    headers.remove(header::FORWARDED);
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if client.https { "https" } else { "http" }));
    if let Ok(value) = HeaderValue::try_from(client.address.to_string()) {
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

    fn who(peer: &str, said: &[&'static str]) -> String {
        let trusted: Vec<IpNet> =
            ["127.0.0.0/8", "::1/128", "10.0.0.0/8"].map(|text| text.parse().unwrap()).into();
        let headers = map(&said.iter().map(|said| ("x-forwarded-for", *said)).collect::<Vec<_>>());
        Client::of(plain(peer), &headers, &trusted).address.to_string()
    }

    /// Somebody who came without TLS.
    fn plain(address: &str) -> Peer {
        Peer { address: address.parse().unwrap(), https: false }
    }

    #[test]
    fn only_trusted_proxies_are_believed_and_only_their_own_word() {
        // Mutations, each seen red: the leftmost address taken; a stranger believed; a line of its own taken before an
        // earlier one; what is no address skipped.
        for (peer, said, client) in [
            ("203.0.113.9", &["6.6.6.6"] as &[_], "203.0.113.9"),
            ("127.0.0.1", &[], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("127.0.0.1", &["6.6.6.6, 198.51.100.7"], "198.51.100.7"),
            ("127.0.0.1", &["6.6.6.6, 198.51.100.7, 10.1.1.1"], "198.51.100.7"),
            ("127.0.0.1", &["6.6.6.6", "198.51.100.7"], "198.51.100.7"),
            ("127.0.0.1", &["6.6.6.6, 198.51.100.7", "127.0.0.1"], "198.51.100.7"),
            ("127.0.0.1", &["198.51.100.7", "10.1.2.3"], "198.51.100.7"),
            ("127.0.0.1", &["10.1.2.3"], "10.1.2.3"),
            ("127.0.0.1", &["1.2.3.4, nonsense"], "127.0.0.1"),
            ("127.0.0.1", &["nonsense, 1.2.3.4"], "1.2.3.4"),
            ("127.0.0.1", &["1.2.3.4, unknown, 10.0.0.1"], "10.0.0.1"),
            ("127.0.0.1", &["1.2.3.4,"], "127.0.0.1"),
            ("127.0.0.1", &["1.2.3.4:5678"], "1.2.3.4"),
            ("::1", &["[2001:db8::7]:443"], "2001:db8::7"),
            ("::1", &["[2001:db8::7]"], "2001:db8::7"),
            ("::1", &["2001:db8::7"], "2001:db8::7"),
            ("::ffff:127.0.0.1", &["::ffff:1.2.3.4"], "1.2.3.4"),
            ("::ffff:203.0.113.9", &["6.6.6.6"], "203.0.113.9"),
        ] {
            assert_eq!(who(peer, said), client, "{peer} {said:?}");
        }
        assert_eq!(
            Client::of(plain("127.0.0.1"), &map(&[("x-forwarded-for", "1.2.3.4")]), &[]).address.to_string(),
            "127.0.0.1"
        );
    }

    #[test]
    fn what_a_front_says_itself_is_told_from_what_it_passes_on() {
        // Mutation: nothing counted: seen red.
        let trusted: Vec<IpNet> = vec!["127.0.0.0/8".parse().unwrap()];
        let believed = |peer: &str, said: &'static str| {
            let headers = map(&[("x-forwarded-for", said)]);
            Client::of(plain(peer), &headers, &trusted).believed
        };
        for (peer, said, count) in [
            ("203.0.113.9", "6.6.6.6", 0),
            ("127.0.0.1", "nonsense", 0),
            ("127.0.0.1", "6.6.6.6", 1),
            ("127.0.0.1", "6.6.6.6, 198.51.100.7", 1),
            ("127.0.0.1", "6.6.6.6, 127.0.0.1", 2),
        ] {
            assert_eq!(believed(peer, said), count, "{peer} {said}");
        }
    }

    #[test]
    fn what_is_forwarded_is_our_own_word() {
        // Mutations, each seen red: the stranger's https believed; the old headers left.
        let trusted: Vec<IpNet> = vec!["127.0.0.1/32".parse().unwrap()];
        let (local, stranger) = (plain("127.0.0.1"), plain("203.0.113.9"));
        let mut headers =
            map(&[("x-forwarded-proto", "https"), ("x-forwarded-host", "evil"), ("forwarded", "for=1")]);
        let client = Client::of(stranger, &headers, &trusted);
        forwarded(&mut headers, client);
        assert_eq!(headers, map(&[("x-forwarded-proto", "http"), ("x-forwarded-for", "203.0.113.9")]));
        let twice = map(&[("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")]);
        assert!(!Client::of(local, &twice, &trusted).https);
        let mut headers = map(&[("x-forwarded-proto", "https"), ("x-forwarded-for", "1.2.3.4")]);
        let client = Client::of(local, &headers, &trusted);
        forwarded(&mut headers, client);
        assert_eq!(headers, map(&[("x-forwarded-proto", "https"), ("x-forwarded-for", "1.2.3.4")]));
    }

    #[test]
    fn who_comes_by_tls_came_by_https_unless_a_trusted_proxy_says_otherwise() {
        let trusted: Vec<IpNet> = vec!["127.0.0.1/32".parse().unwrap()];
        let is_https = |address: &str, said: &[&'static str]| {
            let said: Vec<_> = said.iter().map(|said| ("x-forwarded-proto", *said)).collect();
            Client::of(Peer { https: true, ..plain(address) }, &map(&said), &trusted).https
        };
        for (address, said, https) in [
            ("203.0.113.9", &[] as &[_], true),
            ("203.0.113.9", &["http"], true),
            ("127.0.0.1", &[], true),
            ("127.0.0.1", &["https"], true),
            ("127.0.0.1", &["http"], false),
            ("127.0.0.1", &["https", "https"], false),
        ] {
            assert_eq!(is_https(address, said), https, "{address} {said:?}");
        }
    }
}
