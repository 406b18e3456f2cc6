//! Hosts and services by name, from /etc/hosts and the name servers of /etc/resolv.conf.
//!
//! Not through NSS: a static glibc crashes in it where libnss-resolve or libnss-myhostname is installed.

use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;

use hickory_resolver::Resolver;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;

/// Connects to the first address of a host that lets us.
///
/// # Errors
/// When it has no address, or that of the last one that was tried.
pub async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in addresses(host).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        match socket.connect(SocketAddr::new(address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Host and port of the first SRV record of a name; none where it has none. A name of its own is not completed by a domain
/// to search in.
///
/// # Errors
/// No name server says whether it has.
pub async fn service(name: &str) -> io::Result<Option<(String, u16)>> {
    let builder = TokioResolver::builder_tokio().map_err(io::Error::other)?;
    service_of(&builder.build().map_err(io::Error::other)?, name).await
}

async fn service_of(resolver: &TokioResolver, name: &str) -> io::Result<Option<(String, u16)>> {
    let found = match resolver.srv_lookup(format!("{name}.")).await {
        Ok(found) => found,
        Err(error) if error.is_no_records_found() => return Ok(None),
        Err(error) => return Err(io::Error::other(error)),
    };
    let records = found.answers().iter().filter_map(|record| {
        let RData::SRV(record) = &record.data else { return None };
        Some(record)
    });
    // Of equals any may be asked first (RFC 2782).
    let first = records.min_by_key(|record| record.priority);
    Ok(first.map(|record| (record.target.to_string().trim_end_matches('.').to_owned(), record.port)))
}

async fn addresses(host: &str) -> io::Result<Vec<IpAddr>> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse() {
        return Ok(vec![address]);
    }
    let mut broken = String::new();
    // Both files are read each time, since an administrator may mend them. Without the second there are no name servers.
    let builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
        broken = format!(" (/etc/resolv.conf cannot be used: {error})");
        Resolver::builder_with_config(
            ResolverConfig::from_parts(None, vec![], vec![]),
            TokioRuntimeProvider::default(),
        )
    });
    let unknown = |error: &dyn std::error::Error| {
        io::Error::other(format!(
            "{host} cannot be resolved by /etc/hosts or /etc/resolv.conf{broken}: {error}"
        ))
    };
    let resolver = builder.build().map_err(|error| unknown(&error))?;
    Ok(resolver.lookup_ip(host).await.map_err(|error| unknown(&error))?.iter().collect())
}

#[cfg(test)]
mod tests {
    use hickory_resolver::config::NameServerConfig;
    use tokio::net::UdpSocket;

    use super::*;

    /// Two records for a name with "fed" in it, an error (SERVFAIL) for one with "broken", and none for others (NXDOMAIN).
    fn answer(query: &[u8]) -> Vec<u8> {
        // RFC 1035, section 4: a name ends with an empty label, and type and class follow.
        let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let is_for = |word: &str| query[..end].windows(word.len()).any(|part| part == word.as_bytes());
        let (code, records) = match (is_for("broken"), is_for("fed")) {
            (true, _) => (2, 0),
            (false, true) => (0, 2),
            (false, false) => (3, 0),
        };
        let mut answer =
            [&query[..2], &[0x81, 0x80 | code, 0, 1, 0, records, 0, 0, 0, 0], &query[12..end]].concat();
        for (priority, host, port) in [(20, b'b', 443_u16), (10, b'a', 444)].into_iter().take(records.into())
        {
            // The name that was asked for; SRV, IN, a minute, 17 bytes (RFC 2782).
            answer.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, 17, 0, priority, 0, 0]);
            answer.extend(port.to_be_bytes());
            answer.extend([1, host, 7]);
            answer.extend(b"example\0");
        }
        answer
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_record_of_a_service_that_comes_first_is_found() {
        // Mutations, each seen red: the one that comes last; an error taken for no record.
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut server = NameServerConfig::udp(IpAddr::from([127, 0, 0, 1]));
        server.connections[0].port = socket.local_addr().unwrap().port();
        let config = ResolverConfig::from_parts(None, vec![], vec![server]);
        let resolver =
            Resolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap();
        tokio::spawn(async move {
            let mut query = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut query).await.unwrap();
                socket.send_to(&answer(&query[..length]), from).await.unwrap();
            }
        });
        let found = service_of(&resolver, "_matrix-fed._tcp.m.example").await.unwrap();
        assert_eq!(found, Some(("a.example".to_owned(), 444)));
        assert_eq!(service_of(&resolver, "_matrix._tcp.m.example").await.unwrap(), None);
        service_of(&resolver, "_matrix._tcp.broken.example").await.unwrap_err();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn addresses_need_no_file() {
        assert_eq!(addresses("192.0.2.1").await.unwrap(), [IpAddr::from([192, 0, 2, 1])]);
        assert_eq!(addresses("::1").await.unwrap(), ["::1".parse::<IpAddr>().unwrap()]);
        assert_eq!(addresses("[::1]").await.unwrap(), ["::1".parse::<IpAddr>().unwrap()]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn localhost_is_this_machine_and_every_address_is_tried() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            assert_eq!(connect("localhost", port).await.unwrap().peer_addr().unwrap().port(), port);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_host_that_is_not_there_is_named_with_the_files_to_look_at() {
        // RFC 6761, 6.4: "invalid." never exists.
        let error = connect("a-host.invalid", 1).await.unwrap_err().to_string();
        assert!(error.contains("a-host.invalid") && error.contains("/etc/resolv.conf"), "{error}");
    }
}
