//! What single values of the TOML must look like.

use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

/// What is wrong with a value, to stand behind its key, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) remedy: String,
}

impl Wrong {
    pub(super) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

/// A room id is at most 255 bytes (Matrix specification, appendices, "Common Identifier Format"), and what stands
/// before the server name needs some of them.
const LONGEST_SERVER_NAME: usize = 230;

/// The grammar of the Matrix specification, appendices, "Server Name".
///
/// # Errors
/// Upper case is refused too: Synapse would take it, and every other server compares letter by letter.
pub(super) fn server_name(text: &str) -> Result<String, Wrong> {
    let remedy = if text.contains("://") {
        "write the name alone, without https:// and without a path"
    } else if text.contains('@') {
        "write what stands behind the colon in @alice:example.com"
    } else if text.chars().any(|c| c.is_ascii_uppercase()) {
        "write it in lower case: other servers compare it letter by letter"
    } else if text.len() > LONGEST_SERVER_NAME {
        "write at most 230 letters, since user and room ids have room for 255"
    } else if host_and_port(text).is_some() {
        return Ok(text.to_owned());
    } else if text.rsplit_once(':').is_some_and(|(host, _)| host_and_port(host).is_some()) {
        "a port is a number from 1 to 65535; leave it out if the name is a domain of its own"
    } else {
        "write a domain, like example.com, if need be with a port; it can never be changed later"
    };
    Err(Wrong::new("is not the name of a Matrix server", remedy))
}

/// Takes `host` or `host:port` apart; the host is a domain, an IPv4 address, or an IPv6 address in brackets.
pub fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        Some(_) | None => (text, None),
    };
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let fits = match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.split('.').all(is_label),
    };
    let port = match port {
        None => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|port| *port > 0)?)
        }
        Some(_) => return None,
    };
    fits.then_some((host, port))
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// An `http` or `https` URL without query, as Synapse hands it out to clients; the slash at its end is added.
pub(super) fn base_url(text: &str) -> Result<String, Wrong> {
    let wrong = |why: &str| {
        let example = "write how clients reach the homeserver, like \"https://matrix.example.com/\"";
        Err(Wrong::new(why, example))
    };
    let Some((scheme, rest)) = text.split_once("://") else {
        return wrong("is not a URL: it must begin with https:// or http://");
    };
    if !["https", "http"].contains(&scheme.to_ascii_lowercase().as_str()) {
        return wrong("is not a web address: it must begin with https:// or http://");
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') {
        return wrong("must not hold a user name");
    }
    if text.contains(['?', '#']) {
        return wrong("must end with its path: no ? and no #");
    }
    if host_and_port(authority).is_none() {
        return wrong("does not name a host");
    }
    if path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return wrong("must not hold spaces");
    }
    Ok(format!("{}/", text.trim_end_matches('/')))
}

/// A version as PyPI has them: digits and dots, and a suffix like `rc1`.
pub(super) fn version(text: &str) -> Result<String, Wrong> {
    let starts = text.starts_with(|c: char| c.is_ascii_digit());
    if starts
        && text.matches('.').count() >= 2
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".+".contains(&b))
    {
        return Ok(text.to_owned());
    }
    let remedy =
        "write one version, like \"1.163.2\"; `synvisor upgrade` finds the newest and writes it here";
    Err(Wrong::new("is not a version of Synapse", remedy))
}

/// The name of a system user, as `useradd` takes it.
pub(super) fn user_name(text: &str) -> Result<String, Wrong> {
    let starts = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let goes_on = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b));
    if text == "root" {
        let remedy = "name a user that owns nothing else; PostgreSQL refuses to run as root";
        return Err(Wrong::new("must not be root", remedy));
    }
    if starts && goes_on && text.len() <= 32 {
        return Ok(text.to_owned());
    }
    let remedy = "write lower-case letters, digits, _ and -, at most 32, like synvisor";
    Err(Wrong::new("is not the name of a user", remedy))
}

/// The host of a service: a domain or an address.
pub(super) fn tcp_host(text: &str) -> Result<String, Wrong> {
    // Names of /etc/hosts and of container networks often have an underscore.
    if text.parse::<Ipv6Addr>().is_ok() || text.split('.').all(|label| is_label(&label.replace('_', "-"))) {
        return Ok(text.to_owned());
    }
    let remedy = if text.contains("://") {
        "write the host alone, without a scheme, user, port or database"
    } else if host_and_port(text).is_some() {
        "write the port as a key of its own: port = …"
    } else {
        "write a host name or an address, like db.example.com or 10.0.0.7"
    };
    Err(Wrong::new("is not the name of a host", remedy))
}

/// What libpq takes as `host`: the host of a service, or the directory of a Unix socket.
pub(super) fn database_host(text: &str) -> Result<String, Wrong> {
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    tcp_host(text).map_err(|wrong| {
        let remedy = wrong.remedy.replace("10.0.0.7", "10.0.0.7, or the directory of a Unix socket");
        Wrong { remedy, ..wrong }
    })
}

/// Milliseconds of `"500ms"`, `"30s"`, `"5m"` or `"1h"`.
pub(super) fn duration(text: &str, bounds: &RangeInclusive<u64>) -> Result<u64, Wrong> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit = match text[number.len()..].trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let millis = number.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    match millis {
        Some(millis) if unit > 0 && bounds.contains(&millis) => Ok(millis),
        Some(_) if unit > 0 => {
            let (least, most) = (bounds.start(), bounds.end());
            Err(Wrong::new("is out of bounds", format!("allowed: {least} ms to {} s", most / 1_000)))
        }
        Some(_) | None => {
            let remedy = "write a whole number and its unit, like \"500ms\", \"30s\", \"5m\" or \"1h\"";
            Err(Wrong::new("is not a span of time", remedy))
        }
    }
}

/// Whatever is there.
#[expect(clippy::unnecessary_wraps, reason = "it stands among the checks")]
pub(super) fn any(text: &str) -> Result<String, Wrong> {
    Ok(text.to_owned())
}

/// Bytes of `"500"`, `"50K"`, `"50M"` or `"2G"`, in powers of 1024 as in Synapse's own sizes.
pub(super) fn size(text: &str) -> Result<u64, Wrong> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "" => Some(0),
        "K" => Some(10),
        "M" => Some(20),
        "G" => Some(30),
        _ => None,
    };
    let bytes = unit.and_then(|unit| number.parse::<u64>().ok()?.checked_mul(1 << unit));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| {
        Wrong::new("is not a size", "write a whole number and its unit, like \"500M\" or \"2G\"")
    })
}

/// What synvisor sets for its children itself, and what would break how it talks to them.
const OWN_VARIABLES: [&str; 4] = ["NOTIFY_SOCKET", "TMPDIR", "CREDENTIALS_DIRECTORY", "PYTHONUNBUFFERED"];

/// The name of an environment variable, to stand behind the key `environment`.
pub(super) fn variable(name: &str) -> Result<(), Wrong> {
    let own =
        OWN_VARIABLES.contains(&name) || ["WATCHDOG_", "LISTEN_"].iter().any(|start| name.starts_with(start));
    if own {
        return Err(Wrong::new(format!("must not set {name}"), "remove it: synvisor sets it itself"));
    }
    if name == "SYNAPSE_CACHE_FACTOR" {
        let remedy = "set caches.global_factor instead: Synapse reads the variable and ignores it";
        return Err(Wrong::new(format!("must not set {name}"), remedy));
    }
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if starts && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Ok(());
    }
    let remedy = "write letters, digits and _, like LD_PRELOAD";
    Err(Wrong::new(format!("holds {name:?}, which is not the name of a variable"), remedy))
}

/// An address with a port to listen on, as it is written.
pub(super) fn listen_address_text(text: &str) -> Result<String, Wrong> {
    listen_address(text).map(|_| text.to_owned())
}

/// An address with a port to listen on.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, Wrong> {
    let remedy = "write it like \"127.0.0.1:8008\", or \"0.0.0.0:8008\" and \"[::]:8008\" for every address";
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => Err(Wrong::new("needs a port other than 0", remedy)),
        Ok(address) => Ok(address),
        Err(_) => Err(Wrong::new("is not an IP address with a port", remedy)),
    }
}

/// Whether the kernel refuses to listen on both.
pub fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let every = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.is_ipv4() == other.is_ipv4() && (every || one.ip() == other.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_follow_the_specification() {
        // Mutation: the label's length unchecked: seen red by `a..b`; the port unchecked: seen red by `:70000`.
        for good in [
            "example.com",
            "localhost",
            "example.com:8448",
            "1.2.3.4",
            "[::1]:8448",
            "[2001:db8::1]",
            "a-b.c",
        ] {
            assert_eq!(server_name(good).as_deref(), Ok(good), "{good}");
        }
        let long = format!("{}.com", "a".repeat(230));
        for bad in [
            "https://a.com",
            "Example.com",
            "a..b",
            "a.com:",
            "a.com:70000",
            "a.com:x",
            "[::1",
            "a_b",
            "ä.de",
            "a b",
            "@a:b.c",
            &long,
        ] {
            assert!(server_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn urls_are_completed_or_refused() {
        // Mutation: the trailing slash doubled: seen red.
        assert_eq!(base_url("https://a.com").as_deref(), Ok("https://a.com/"));
        assert_eq!(base_url("http://127.0.0.1:8008/").as_deref(), Ok("http://127.0.0.1:8008/"));
        assert_eq!(base_url("https://a.com/matrix").as_deref(), Ok("https://a.com/matrix/"));
        for bad in [
            "a.com",
            "ftp://a.com",
            "https://",
            "https://u@a.com",
            "https://a.com/?x",
            "https://a.com/#x",
            "https://a b/",
            "https://a.com/b c",
            "https://a.com:0/",
        ] {
            assert!(base_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_a_unit() {
        // Mutation: the factor of `m` 1000: seen red.
        let any = 0..=3_600_000;
        assert_eq!(duration("500ms", &any), Ok(500));
        assert_eq!(duration("30s", &any), Ok(30_000));
        assert_eq!(duration("5m", &any), Ok(300_000));
        assert_eq!(duration("1 h", &any), Ok(3_600_000));
        for bad in ["30", "s", "1d", "-1s", "1.5s", "99999999999999999999s", "9999999999999999h", "2h"] {
            assert!(duration(bad, &any).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_collide_as_the_kernel_sees_it() {
        // Mutation: `every` dropped: seen red by the wildcard.
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let collides = |one, other| collide(address(one), address(other));
        assert!(collides("127.0.0.1:8008", "127.0.0.1:8008"));
        assert!(collides("0.0.0.0:8008", "127.0.0.1:8008"));
        assert!(!collides("127.0.0.1:8008", "127.0.0.2:8008"));
        assert!(!collides("0.0.0.0:8008", "0.0.0.0:8009"));
        assert!(!collides("0.0.0.0:8008", "[::]:8008"));
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        // Mutation: the shift of M made 10: seen red.
        assert_eq!(size("2M").unwrap(), 2_097_152);
        assert_eq!(size("1G").unwrap(), 1 << 30);
        assert_eq!(size("7").unwrap(), 7);
        for wrong in
            ["", "0", "M", "1MB", "1 G", "-1", "1.5G", "99999999999999999999", "18446744073709551615G"]
        {
            size(wrong).unwrap_err();
        }
    }

    #[test]
    fn variables_that_synvisor_sets_are_not_the_users() {
        // Mutation: the prefixes left out: seen red.
        for fine in ["LD_PRELOAD", "_x9", "https_proxy"] {
            variable(fine).unwrap();
        }
        for wrong in ["", "1A", "A-B", "A=B", "ä", "LISTEN_FDS", "WATCHDOG_USEC", "NOTIFY_SOCKET"] {
            variable(wrong).unwrap_err();
        }
    }

    #[test]
    fn hosts_and_users() {
        assert_eq!(database_host("/var/run/postgresql").as_deref(), Ok("/var/run/postgresql"));
        assert_eq!(database_host("my_db").as_deref(), Ok("my_db"));
        assert_eq!(database_host("::1").as_deref(), Ok("::1"));
        for bad in ["postgres://db", "db:5432", "a b", "run/postgresql"] {
            assert!(database_host(bad).is_err(), "{bad}");
        }
        assert!(user_name("synvisor-router").is_ok() && user_name("_x1").is_ok());
        for bad in ["root", "Synvisor", "1a", "a b", "a:b", &"a".repeat(33)] {
            assert!(user_name(bad).is_err(), "{bad}");
        }
    }
}
