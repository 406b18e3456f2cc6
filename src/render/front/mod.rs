//! What the web server in front of the router is to be told: a configuration of its own for each of the usual ones.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::ops::Range;

use crate::config::Config;
use crate::config::Listen;
use crate::config::Parsed;
use crate::config::effective::Origin;
use crate::config::problem::Problem;

mod apache;
mod caddy;
mod haproxy;
mod nginx;
mod sites;
mod traefik;

use sites::Site;

/// How long the router may be silent before the front gives a request up, in seconds.
///
/// The router lets no request wait for so long: 25 s for a process that is away, 180 s for its answer, and both again if
/// that process ends within 120 s. It knows what happened, and should be the one to say it.
pub const PATIENCE: u64 = 600;

/// How long the front may keep an idle connection to the router, in seconds: less than the router does, since who closes
/// first loses no request.
pub const IDLE: u64 = 60;

/// Bytes of the largest request that is no upload: a transaction of another server (1.163: `MAX_REQUEST_SIZE` in
/// `synapse/api/constants.py`).
const LARGEST_TRANSACTION: u64 = 200 * 65_536;

const SERVER: &str = "/.well-known/matrix/server";
const CLIENT: &str = "/.well-known/matrix/client";

/// A web server that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Caddy,
    Nginx,
    Haproxy,
    Apache,
    Traefik,
}

impl Server {
    pub const ALL: [Self; 5] = [Self::Caddy, Self::Nginx, Self::Haproxy, Self::Apache, Self::Traefik];

    /// As it is named on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Caddy => "caddy",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Apache => "apache",
            Self::Traefik => "traefik",
        }
    }
}

/// What a web server has to be told, whichever it is.
struct Front {
    /// Where it finds the router.
    router: SocketAddr,
    sites: Vec<Site>,
    /// Bytes of the largest body that Synapse takes.
    largest_body: u64,
}

impl Front {
    /// Every port that the world comes by.
    fn ports(&self) -> BTreeSet<u16> {
        self.sites.iter().flat_map(|site| site.ports.iter().copied()).collect()
    }
}

/// The configuration of a web server in front of the router.
///
/// With `federation_port` other servers come by port 8448 of `server_name`, and need not be told where to go; `also` are
/// further hosts and ports by which the homeserver is reached.
///
/// # Errors
/// The configuration is a good one, and no web server can stand in front of it as it is.
pub fn front(
    parsed: &Parsed,
    server: Server,
    federation_port: bool,
    also: &[(String, u16)],
) -> Result<String, Problem> {
    let config = &parsed.config;
    let front = Front {
        router: router(parsed)?,
        sites: sites::sites(parsed, federation_port, also)?,
        largest_body: config.max_upload_size().max(LARGEST_TRANSACTION),
    };
    let body = match server {
        Server::Caddy => caddy::body(&front),
        Server::Nginx => nginx::body(&front),
        Server::Haproxy => haproxy::body(&front),
        Server::Apache => apache::body(&front),
        Server::Traefik => traefik::body(&front, parsed)?,
    };
    let mut flags = if federation_port { " --federation-port".to_owned() } else { String::new() };
    also.iter().for_each(|(host, port)| flags.push_str(&format!(" --also {host}:{port}")));
    let mut text = format!(
        "# Made by `synvisor front {}{flags}`: make it anew when server_name, public_baseurl or [[listen]] changes.\n",
        server.name()
    );
    for note in notes(config, front.router) {
        text.push_str(&format!("#\n{note}"));
    }
    Ok(format!("{text}{body}"))
}

/// The first address at which the admin API is closed, and that wants nothing but HTTP.
fn router(parsed: &Parsed) -> Result<SocketAddr, Problem> {
    let plain = |listen: &&Listen| !listen.admin && listen.tls.is_empty() && !listen.proxy_protocol;
    let Some(listen) = parsed.config.listen.iter().find(plain) else {
        let closed = parsed.config.listen.iter().any(|listen| !listen.admin);
        let what = if closed {
            "every [[listen]] without admin has tls or proxy_protocol, and what is made here asks by plain HTTP"
        } else {
            "every [[listen]] has admin = true: a web server in front would open the admin API to all the world"
        };
        let remedy = "add a [[listen]] with another address, without admin, tls and proxy_protocol";
        return Err(Problem::error(place(parsed, "[[listen]]", "admin"), what, remedy));
    };
    let mut address = listen.address;
    if address.ip().is_unspecified() {
        let loopback =
            if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    Ok(address)
}

/// What only the administrator can see to.
fn notes(config: &Config, router: SocketAddr) -> Vec<String> {
    let mut notes = Vec::new();
    let believed = |address: IpAddr| config.trusted_proxies.iter().any(|network| network.contains(&address));
    if !router.ip().is_loopback() || !believed(router.ip()) {
        let networks: Vec<String> =
            config.trusted_proxies.iter().map(|network| format!("\"{network}\"")).collect();
        notes.push(format!(
            "# synvisor believes what this web server says of its clients only if trusted_proxies holds the address that it\n\
             # comes from; else it takes all of them for one. Now it holds [{}].\n",
            networks.join(", ")
        ));
    }
    if config.delegates_authentication() {
        notes.push(
            "# Left to you: /_matrix/client/*/login, /logout and /refresh go to the Matrix Authentication Service.\n"
                .to_owned(),
        );
    }
    notes
}

/// Where a key stands in the file, if it does.
fn place(parsed: &Parsed, table: &str, key: &str) -> Option<Range<usize>> {
    let held = parsed.effective.iter().find(|held| held.table == table && held.key == key)?;
    match &held.origin {
        Origin::At(place) => Some(place.clone()),
        Origin::Default(_) | Origin::Preset(_) | Origin::From(_) => None,
    }
}
