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
    use super::*;

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
