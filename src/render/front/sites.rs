//! What the world must find where so that clients and servers reach the homeserver, whichever web server answers.

use std::net::Ipv4Addr;

use crate::config::Config;
use crate::config::Parsed;
use crate::config::host_and_port;
use crate::config::problem::Problem;

use super::place;

const HTTPS: u16 = 443;

/// Where other servers look for one whose name has no port and that tells them nothing else (Matrix specification,
/// server-server API, "Resolving server names").
const FEDERATION: u16 = 8448;

/// What is asked of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) host: String,
    pub(super) ports: Vec<u16>,
    pub(super) share: Share,
    /// What other servers must be told to go to, where Synapse would tell them something else: it says `server_name` and
    /// 443, whatever `public_baseurl` is (1.163: `synapse/rest/well_known.py`).
    pub(super) delegation: Option<String>,
}

/// How much of a site is the homeserver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    Whole,
    /// Where clients and servers are told to go; the rest is somebody else's.
    WellKnown,
}

impl Site {
    /// What stands at `/.well-known/matrix/server`, where Synapse would not say the right thing.
    pub(super) fn answer(&self) -> Option<String> {
        self.delegation.as_ref().map(|target| format!("{{\"m.server\":\"{target}\"}}"))
    }
}

/// Every site, that of `public_baseurl` first.
///
/// # Errors
/// `public_baseurl` is not the root of a site with TLS.
pub(super) fn sites(
    parsed: &Parsed,
    federation_port: bool,
    also: &[(String, u16)],
) -> Result<Vec<Site>, Problem> {
    let config = &parsed.config;
    let (public, public_port) = public(parsed)?;
    let (own, named_port) = host_and_port(&config.server_name).unwrap_or((&config.server_name, None));
    // A name with a port and an address are gone to as they are; nobody asks there for anything else.
    let direct = federation_port || named_port.is_some() || is_address(own);
    let whole = |host: &str, port| Site {
        host: host.to_owned(),
        ports: vec![port],
        share: Share::Whole,
        delegation: None,
    };
    let mut sites = vec![whole(&public, public_port)];
    if direct {
        let port = named_port.unwrap_or(FEDERATION);
        match &mut sites[0] {
            site if site.host == own && site.ports.contains(&port) => {}
            site if site.host == own => site.ports.push(port),
            _ => sites.push(whole(own, port)),
        }
    }
    let is_asked = |site: &Site| site.host == own && site.ports.contains(&HTTPS);
    match sites.iter_mut().find(|site| is_asked(site)) {
        Some(site) => {
            site.delegation = (!direct && !synapse_says(config)).then(|| format!("{own}:{HTTPS}"));
        }
        None if direct && own == public => {}
        None => sites.push(Site {
            host: own.to_owned(),
            ports: vec![HTTPS],
            share: Share::WellKnown,
            delegation: (!direct).then(|| format!("{public}:{public_port}")),
        }),
    }
    for (host, port) in also {
        let host = host.to_ascii_lowercase();
        let is_there = |site: &&mut Site| site.host == host && site.ports.contains(port);
        if let Some(site) = sites.iter_mut().find(is_there) {
            site.share = Share::Whole;
        } else if let Some(site) =
            sites.iter_mut().find(|site| site.host == host && site.share == Share::Whole)
        {
            site.ports.push(*port);
        } else {
            sites.push(whole(&host, *port));
        }
    }
    Ok(sites)
}

/// Whether Synapse tells other servers where to go; without a word of the file it does.
pub(super) fn synapse_says(config: &Config) -> bool {
    let setting = config.synapse.get("serve_server_wellknown");
    setting.and_then(toml::Value::as_bool).unwrap_or(false)
}

/// Host and port of `public_baseurl`.
fn public(parsed: &Parsed) -> Result<(String, u16), Problem> {
    let url = parsed.config.public_baseurl.to_ascii_lowercase();
    let wrong = |what: &str, remedy: &str| Problem::error(place(parsed, "", "public_baseurl"), what, remedy);
    let Some(rest) = url.strip_prefix("https://") else {
        let what = "public_baseurl is without TLS, and a web server in front is there to bring it";
        return Err(wrong(what, "write https:// and the address of that web server"));
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !path.is_empty() {
        let what =
            "public_baseurl is below a path: a web server would have to rewrite what others have signed";
        return Err(wrong(
            what,
            "give the homeserver a host of its own, like \"https://matrix.example.com/\"",
        ));
    }
    let (host, port) = host_and_port(authority).unwrap_or((authority, None));
    Ok((host.to_owned(), port.unwrap_or(HTTPS)))
}

/// Whether a host is an IP address rather than a name.
fn is_address(host: &str) -> bool {
    host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// `host:port,port what`, a site a line; what is `whole` or `well-known`, and whom servers are told.
    fn of(server_name: &str, rest: &str, federation_port: bool) -> String {
        with(server_name, rest, federation_port, &[])
    }

    fn with(server_name: &str, rest: &str, federation_port: bool, also: &[(&str, u16)]) -> String {
        let text = format!("server_name = \"{server_name}\"\n{rest}");
        let parsed = Config::parse(&text, Path::new("/")).unwrap();
        let line = |site: &Site| {
            let ports: Vec<String> = site.ports.iter().map(u16::to_string).collect();
            let share = if site.share == Share::Whole { "whole" } else { "well-known" };
            let told = site.delegation.iter().map(|target| format!(" {target}")).collect::<String>();
            format!("{}:{} {share}{told}", site.host, ports.join(","))
        };
        let also: Vec<(String, u16)> = also.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect();
        match sites(&parsed, federation_port, &also) {
            Ok(sites) => sites.iter().map(line).collect::<Vec<_>>().join("\n"),
            Err(problem) => problem.what,
        }
    }

    fn public(url: &str) -> String {
        format!("public_baseurl = \"{url}\"")
    }

    #[test]
    fn every_site_that_is_asked_is_there_and_says_the_right_thing() {
        // Mutation: the port of server_name not looked at: seen red.
        let silent = "synapse.serve_server_wellknown = false";
        let cases = [
            ("a.org", String::new(), false, "a.org:443 whole"),
            ("a.org", String::new(), true, "a.org:443,8448 whole"),
            ("a.org", public("https://A.org"), false, "a.org:443 whole"),
            ("a.org", silent.to_owned(), false, "a.org:443 whole a.org:443"),
            ("a.org", silent.to_owned(), true, "a.org:443,8448 whole"),
            (
                "a.org",
                public("https://m.a.org"),
                false,
                "m.a.org:443 whole\na.org:443 well-known m.a.org:443",
            ),
            (
                "a.org",
                public("https://m.a.org"),
                true,
                "m.a.org:443 whole\na.org:8448 whole\na.org:443 well-known",
            ),
            // The other site on port 443 of the same host may be anybody's.
            ("a.org", public("https://a.org:444"), false, "a.org:444 whole\na.org:443 well-known a.org:444"),
            ("a.org:8448", String::new(), false, "a.org:8448 whole"),
            ("a.org:8448", public("https://a.org"), true, "a.org:443,8448 whole"),
            ("a.org:99", public("https://a.org"), true, "a.org:443,99 whole"),
            (
                "a.org:99",
                public("https://m.a.org"),
                false,
                "m.a.org:443 whole\na.org:99 whole\na.org:443 well-known",
            ),
            ("1.2.3.4", String::new(), false, "1.2.3.4:443,8448 whole"),
            ("[::1]", String::new(), false, "[::1]:443,8448 whole"),
        ];
        for (server_name, rest, federation_port, expected) in cases {
            assert_eq!(of(server_name, &rest, federation_port), expected, "{server_name} {rest}");
        }
        assert!(of("a.org", &public("http://a.org"), false).contains("without TLS"));
        assert!(of("a.org", &public("https://a.org/matrix"), false).contains("below a path"));
    }

    #[test]
    fn an_address_that_others_remember_is_served_too() {
        // Mutations: a site of its own for a host that has one; what is there already left as it is: each seen red.
        let split = public("https://m.a.org");
        let with = |also: &[(&str, u16)]| with("a.org", &split, false, also);
        assert_eq!(with(&[("M.a.org", 8448)]), "m.a.org:443,8448 whole\na.org:443 well-known m.a.org:443");
        assert_eq!(with(&[("m.a.org", 443)]), with(&[]));
        assert_eq!(with(&[("a.org", 443)]), "m.a.org:443 whole\na.org:443 whole m.a.org:443");
        let apart = "m.a.org:443 whole\na.org:443 well-known m.a.org:443\na.org:8448,99 whole";
        assert_eq!(with(&[("a.org", 8448), ("a.org", 99)]), apart);
    }
}
