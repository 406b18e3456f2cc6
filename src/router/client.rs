//! Who a client is, behind the web servers that are trusted to say so.

use std::net::IpAddr;
use std::net::SocketAddr;

use ipnet::IpNet;

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
    pub(super) https: bool,
}

impl Client {
    /// The peer, or whom a trusted proxy names in X-Forwarded-For; from the right, since what stands further left was said
    /// by whoever asked the proxy.
    pub(super) fn of<'v>(
        peer: Peer,
        forwarded_for: impl DoubleEndedIterator<Item = &'v [u8]>,
        mut forwarded_proto: impl Iterator<Item = &'v [u8]>,
        trusted: &[IpNet],
    ) -> Self {
        // A socket that listens on [::] shows IPv4 in IPv6's clothes.
        let address = peer.address.to_canonical();
        let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
        if !is_trusted(address) {
            return Self { address, believed: 0, https: peer.https };
        }
        let lines = forwarded_for.rev();
        let said = lines.flat_map(|value| std::str::from_utf8(value).unwrap_or("?").rsplit(','));
        let (mut address, mut believed) = (address, 0);
        // Behind something that is no address nothing is known any more.
        for next in said.map_while(|text| parse(text.trim())) {
            address = next;
            believed += 1;
            if !is_trusted(next) {
                break;
            }
        }
        let https = match (forwarded_proto.next(), forwarded_proto.next()) {
            (None, _) => peer.https,
            (Some(protocol), None) => protocol == b"https",
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(peer: &str, said: &[&str], proto: &[&str], trusted: &[&str]) -> Client {
        let trusted: Vec<IpNet> = trusted.iter().map(|text| text.parse().unwrap()).collect();
        let said = said.iter().map(|value| value.as_bytes());
        let peer = Peer { address: peer.parse().unwrap(), https: false };
        Client::of(peer, said, proto.iter().map(|value| value.as_bytes()), &trusted)
    }

    const TRUSTED: [&str; 3] = ["127.0.0.0/8", "::1/128", "10.0.0.0/8"];

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
            assert_eq!(of(peer, said, &[], &TRUSTED).address.to_string(), client, "{peer} {said:?}");
        }
        assert_eq!(of("127.0.0.1", &["1.2.3.4"], &[], &[]).address.to_string(), "127.0.0.1");
    }

    #[test]
    fn what_a_front_says_itself_is_told_from_what_it_passes_on() {
        // Mutation: nothing counted: seen red.
        for (peer, said, count) in [
            ("203.0.113.9", "6.6.6.6", 0),
            ("127.0.0.1", "nonsense", 0),
            ("127.0.0.1", "6.6.6.6", 1),
            ("127.0.0.1", "6.6.6.6, 198.51.100.7", 1),
            ("127.0.0.1", "6.6.6.6, 127.0.0.1", 2),
        ] {
            assert_eq!(of(peer, &[said], &[], &TRUSTED[..1]).believed, count, "{peer} {said}");
        }
    }

    #[test]
    fn only_a_trusted_proxy_says_once_that_its_client_spoke_tls() {
        // Mutations, each seen red: the stranger's https believed; the first of several taken.
        let https = |peer: &str, proto: &[&str]| of(peer, &[], proto, &TRUSTED).https;
        assert!(https("127.0.0.1", &["https"]));
        for (peer, proto) in [
            ("203.0.113.9", &["https"] as &[_]),
            ("127.0.0.1", &["http"]),
            ("127.0.0.1", &["https", "http"]),
            ("127.0.0.1", &[]),
        ] {
            assert!(!https(peer, proto), "{peer} {proto:?}");
        }
    }

    #[test]
    fn who_comes_by_tls_came_by_https_unless_a_trusted_proxy_says_otherwise() {
        // Mutations, each seen red: TLS of a stranger, or of a proxy that says nothing, overlooked; a proxy's http overlooked.
        let trusted: Vec<IpNet> = vec!["127.0.0.1/32".parse().unwrap()];
        let is_https = |address: &str, proto: &[&str]| {
            let peer = Peer { address: address.parse().unwrap(), https: true };
            let proto = proto.iter().map(|value| value.as_bytes());
            Client::of(peer, std::iter::empty(), proto, &trusted).https
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
