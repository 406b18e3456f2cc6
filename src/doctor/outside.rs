//! What other servers and clients see: delegation, the web server in front, and whom it says it asks for.

use std::net::IpAddr;
use std::net::Ipv4Addr;

use crate::config::Config;
use crate::config::host_and_port;

use super::Facts;
use super::Finding;
use super::Public;
use super::Seen;
use super::WellKnown;

/// An address that nobody has (RFC 5737), which the doctor's request claims to come for.
pub const FORGED: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

pub(super) fn examine(config: &Config, facts: &Facts) -> Vec<Finding> {
    let public = &facts.public;
    if let Some(why) = &public.unasked {
        return ["delegation", "clients", "X-Forwarded-For"]
            .map(|check| Finding::unknown(check, why))
            .to_vec();
    }
    vec![delegation(config, public), clients(config, public), forwarded(config, public)]
}

/// The host of the server's name: clients and servers ask it, on port 443, where the homeserver is.
fn host(config: &Config) -> &str {
    host_and_port(&config.server_name).map_or(config.server_name.as_str(), |(host, _)| host)
}

/// As other servers go about it (Matrix specification, server-server API, "Resolving server names"): what is no answer to
/// /.well-known/matrix/server is to them as if there were none.
fn delegation(config: &Config, public: &Public) -> Finding {
    let (check, name) = ("delegation", &config.server_name);
    let told = match &public.server {
        WellKnown::Says { value, .. } => format!("/.well-known/matrix/server leads to {value}"),
        WellKnown::Wrong(why) => format!("/.well-known/matrix/server is no answer ({why})"),
        WellKnown::Absent => String::new(),
    };
    let way = match (&public.by_record, &public.record) {
        (None, _) if told.is_empty() => "server_name says where".to_owned(),
        (None, _) => String::new(),
        (Some(_), Ok(Some(target))) => format!("an SRV record leads to {target}"),
        (Some(_), Ok(None) | Err(_)) => "nothing says another port than 8448".to_owned(),
    };
    let by = [told, way].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", and ");
    match (&public.federation, &public.record, &public.server) {
        (Ok(found), _, WellKnown::Wrong(_)) if found == name => Finding::warning(
            check,
            format!("other servers reach {name}, but {by}"),
            format!(
                "have https://{}/.well-known/matrix/server answer 404, or {{\"m.server\": \"HOST:PORT\"}}",
                host(config)
            ),
        ),
        (Ok(found), ..) if found == name => Finding::fine(check, format!("other servers reach {name}: {by}")),
        (Err(why), Err(unknown), _) if public.by_record.is_some() => Finding::unknown(
            check,
            format!(
                "SRV records ({unknown}), by which other servers may reach {name}; without, they cannot: {by}: {why}"
            ),
        ),
        (Ok(found), ..) => Finding::error(
            check,
            format!("other servers end up at another homeserver, {found}: {by}"),
            "correct m.server in /.well-known/matrix/server, or the web server's site",
        ),
        (Err(why), ..) => Finding::error(
            check,
            format!("other servers cannot reach {name} ({by}): {why}"),
            "pass the whole site on to synvisor, and answer /.well-known/matrix/server, or open port 8448 (synvisor front)",
        ),
    }
}

fn clients(config: &Config, public: &Public) -> Finding {
    let url = &config.public_baseurl;
    if let Err(why) = &public.clients {
        return Finding::error(
            "clients",
            format!("{url} does not lead here: {why}"),
            "correct public_baseurl, or the web server in front (synvisor front)",
        );
    }
    let same = |value: &str| value.trim_end_matches('/') == url.trim_end_matches('/');
    match &public.client {
        WellKnown::Says { value, cors: true } if same(value) => {
            Finding::fine("clients", format!("find {url} by /.well-known/matrix/client"))
        }
        WellKnown::Says { value, cors: false } if same(value) => Finding::warning(
            "clients",
            "clients in browsers may not read /.well-known/matrix/client",
            "answer it with Access-Control-Allow-Origin: *",
        ),
        WellKnown::Says { value, .. } => Finding::warning(
            "clients",
            format!("/.well-known/matrix/client leads to {value}, and public_baseurl is {url}"),
            "make both the same",
        ),
        WellKnown::Absent => Finding::warning(
            "clients",
            format!(
                "there is no https://{}/.well-known/matrix/client: users have to type {url}",
                host(config)
            ),
            "answer it there: `synvisor front` shows how",
        ),
        WellKnown::Wrong(why) => Finding::warning(
            "clients",
            format!("/.well-known/matrix/client: {why}"),
            "correct what answers it",
        ),
    }
}

fn forwarded(config: &Config, public: &Public) -> Finding {
    let check = "X-Forwarded-For";
    let Some(Seen { address, believed }) = public.seen else {
        return Finding::unknown(check, "the router was not reached by way of public_baseurl");
    };
    let trusted = config.trusted_proxies.iter().any(|proxy| proxy.contains(&address));
    // Where clients speak TLS and no listener does, somebody stands before the router.
    let own = config.listen.iter().any(|listen| !listen.tls.is_empty());
    let front = config.public_baseurl.starts_with("https:") && !own;
    match (address, believed) {
        (FORGED, 1) if front => Finding::error(
            check,
            "the web server in front passes on what clients say of themselves: rate limits and bans can be got around",
            "have it set X-Forwarded-For itself (nginx: proxy_set_header X-Forwarded-For $remote_addr;)",
        ),
        // It was added behind what was passed on, and is believed like whoever added it.
        (FORGED, _) => Finding::unknown(
            check,
            "it was asked from an address in trusted_proxies, which may say for whom it asks: ask from another machine",
        ),
        (_, 0) if front && !trusted => Finding::warning(
            check,
            format!(
                "the web server in front comes from {address} and is not believed: all clients share that address, and one rate limit"
            ),
            format!("add \"{address}\" to trusted_proxies, then: synvisor reload"),
        ),
        _ if !own && trusted && (believed == 0 || public.from != Some(address)) => Finding::warning(
            check,
            format!("every client seems to come from {address}, the web server in front"),
            "have it set X-Forwarded-For; where you asked from its own network, ask from another one",
        ),
        _ => Finding::fine(check, format!("whoever asks is seen as {address}")),
    }
}
