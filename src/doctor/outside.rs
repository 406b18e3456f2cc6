//! What other servers and clients see: delegation, the web server in front, and whom it says it asks for.

use std::net::IpAddr;
use std::net::Ipv4Addr;

use crate::config::Config;

use super::Facts;
use super::Finding;
use super::Public;
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

fn delegation(config: &Config, public: &Public) -> Finding {
    let name = &config.server_name;
    if let WellKnown::Wrong(why) = &public.server {
        return Finding::error(
            "delegation",
            format!("https://{name}/.well-known/matrix/server is no answer for a server: {why}"),
            format!(
                "have it answer {{\"m.server\": \"HOST:443\"}}: `synvisor front caddy` shows how, for {name} too"
            ),
        );
    }
    let by = match &public.server {
        WellKnown::Says { value, .. } => format!("/.well-known/matrix/server leads to {value}"),
        WellKnown::Absent | WellKnown::Wrong(_) => {
            "without /.well-known/matrix/server it is port 8448".to_owned()
        }
    };
    match &public.federation {
        Ok(found) if found == name => {
            Finding::fine("delegation", format!("other servers reach {name}: {by}"))
        }
        Ok(found) => Finding::error(
            "delegation",
            format!("other servers end up at another homeserver, {found}: {by}"),
            "correct m.server in /.well-known/matrix/server, or the web server's site",
        ),
        Err(why) => Finding::error(
            "delegation",
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
                config.server_name
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
    match public.address {
        None => Finding::unknown(check, "the router was not reached by way of public_baseurl"),
        Some(FORGED) => Finding::error(
            check,
            "the web server in front passes on what clients say of themselves: rate limits and bans can be got around",
            "have it set X-Forwarded-For itself (nginx: proxy_set_header X-Forwarded-For $remote_addr;)",
        ),
        Some(address) if config.trusted_proxies.iter().any(|proxy| proxy.contains(&address)) => {
            Finding::warning(
                check,
                format!("every client seems to come from {address}, the web server in front"),
                "have it set X-Forwarded-For; where you asked from this very machine, ask from another one",
            )
        }
        Some(address) => Finding::fine(check, format!("whoever asks is seen as {address}")),
    }
}
