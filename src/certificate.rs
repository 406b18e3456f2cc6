//! Certificates of TLS with their private keys, as PEM holds them: whether the two fit, whom they are for, until when.

use std::fmt;

use rustls::Error;
use rustls::InconsistentKeys;
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem;
use rustls::pki_types::pem::PemObject;
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// An ACME client has renewed a certificate long before it has so many seconds left: Let's Encrypt's own reminders
/// began at about as many.
const SHORT: u64 = 14 * 86_400;

/// Why a pair of files cannot be served with, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is about the certificate.
    Certificate { what: String, remedy: &'static str },
    /// It is about the key.
    Key { what: String, remedy: &'static str },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate { what, .. } => write!(f, "the certificate's file {what}"),
            Self::Key { what, .. } => write!(f, "the key's file {what}"),
        }
    }
}

const NO_CHAIN: &str = "name a PEM file with the certificate of this server and, below it, those that lead to its authority: an ACME client's fullchain.pem";
const NO_KEY: &str = "name a PEM file with the private key of this server: an ACME client's privkey.pem";

/// Something to serve TLS with, from the text of both files, which may be the same one.
///
/// # Errors
/// Either is no PEM or cannot be used, or they are not of one another.
pub fn pair(chain: &str, key: &str) -> Result<CertifiedKey, Fault> {
    let wrong = |what: String, remedy| Fault::Certificate { what, remedy };
    let wrong_key = |what: String, remedy| Fault::Key { what, remedy };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(format!("is not PEM: {}", Shown(&error)), NO_CHAIN))?;
    if certificates.is_empty() {
        return Err(wrong("holds no certificate in PEM".to_owned(), NO_CHAIN));
    }
    let private = match PrivateKeyDer::from_pem_slice(key.as_bytes()) {
        Ok(private) => private,
        Err(pem::Error::NoItemsFound) if key.contains("ENCRYPTED") => {
            let remedy =
                "take the passphrase away (openssl pkey -in KEY -out NEW), and give the file mode 0600";
            return Err(wrong_key("holds a private key that has a passphrase".to_owned(), remedy));
        }
        Err(pem::Error::NoItemsFound) => {
            return Err(wrong_key("holds no private key in PEM".to_owned(), NO_KEY));
        }
        Err(error) => return Err(wrong_key(format!("is not PEM: {}", Shown(&error)), NO_KEY)),
    };
    let provider = aws_lc_rs::default_provider();
    CertifiedKey::from_der(certificates, private, &provider).map_err(|error| {
        if error == Error::InconsistentKeys(InconsistentKeys::KeyMismatch) {
            let remedy =
                "name the key and the certificate of one another, the server's own certificate first in its file";
            return wrong_key("does not belong to the certificate".to_owned(), remedy);
        }
        if let Error::InvalidCertificate(why) = error {
            return wrong(format!("holds a certificate that cannot be used: {why:?}"), NO_CHAIN);
        }
        wrong_key(format!("holds a key that cannot be used: {error}"), NO_KEY)
    })
}

/// What is wrong with a PEM file, without any of it: it may be a key.
struct Shown<'e>(&'e pem::Error);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self.0, pem::Error::MissingSectionEnd { .. }) {
            "a section has no end"
        } else if matches!(self.0, pem::Error::IllegalSectionStart { .. }) {
            "a section begins in a wrong way"
        } else if matches!(self.0, pem::Error::Base64Decode(_)) {
            "what is in a section is not Base64"
        } else {
            "it cannot be read"
        })
    }
}

/// Whether a certificate is for a server of this name.
pub fn is_for(certified: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let own = certified.end_entity_cert().and_then(ParsedCertificate::try_from);
    own.is_ok_and(|own| verify_server_name(&own, name).is_ok())
}

/// What is to be known of a certificate that is served with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The names and addresses that it is for.
    pub names: Vec<String>,
    /// When it begins to be valid, and the last moment: seconds since 1970-01-01 UTC.
    pub since: u64,
    pub until: u64,
}

/// How much time a certificate has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    NotYet,
    Enough,
    /// It should have been renewed; so many days are left.
    Short(u64),
    Expired,
}

impl Certificate {
    /// What a chain begins with; none where that is no certificate.
    pub fn of(chain: &str) -> Option<Self> {
        let own = CertificateDer::pem_slice_iter(chain.as_bytes()).next()?.ok()?;
        let (_, parsed) = parse_x509_certificate(&own).ok()?;
        let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
        let names = parsed.subject_alternative_name().ok()?;
        let names = names.map(|names| names.value.general_names.iter().filter_map(name).collect());
        Some(Self {
            names: names.unwrap_or_default(),
            since: seconds(parsed.validity().not_before.timestamp()),
            until: seconds(parsed.validity().not_after.timestamp()),
        })
    }

    /// Whether it is for a host, a name or an address; one with a star is for one more label (RFC 6125, section 6.4.3).
    pub fn is_for(&self, host: &str) -> bool {
        let above = host.split_once('.').map(|(_, above)| above);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(rest) => above.is_some_and(|above| above.eq_ignore_ascii_case(rest)),
            None => name.eq_ignore_ascii_case(host),
        })
    }

    /// At a moment, in seconds since 1970-01-01 UTC.
    pub const fn validity(&self, now: u64) -> Validity {
        if now < self.since {
            Validity::NotYet
        } else if now > self.until {
            Validity::Expired
        } else if self.until - now < SHORT {
            Validity::Short((self.until - now) / 86_400)
        } else {
            Validity::Enough
        }
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = name {
        return Some((*name).to_owned());
    }
    let GeneralName::IPAddress(bytes) = name else { return None };
    let four = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
    let address = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from));
    address.ok().map(|address| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate and its key in PEM, valid from one moment to another.
    fn made(names: &[&str], since: i32, until: i32) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut asked = rcgen::CertificateParams::new(names).unwrap();
        (asked.not_before, asked.not_after) =
            (rcgen::date_time_ymd(since, 1, 1), rcgen::date_time_ymd(until, 1, 1));
        let key = rcgen::KeyPair::generate().unwrap();
        (asked.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn why(chain: &str, key: &str) -> String {
        pair(chain, key).map_or_else(|fault| fault.to_string(), |_| "fine".to_owned())
    }

    #[test]
    fn a_chain_and_its_key_are_told_from_everything_else() {
        let (chain, key) = made(&["a.b"], 2020, 2030);
        let (other, other_key) = made(&["a.b"], 2020, 2030);
        let both = format!("{key}\n{chain}");
        assert_eq!(why(&chain, &key), "fine");
        assert_eq!(why(&both, &both), "fine");
        assert_eq!(why(&format!("{chain}{other}"), &key), "fine");
        let locked = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let cut = key.replace("-----END PRIVATE KEY-----", "");
        for (chain, key, expected) in [
            (chain.as_str(), other_key.as_str(), "the key's file does not belong to the certificate"),
            (&format!("{other}{chain}"), &key, "the key's file does not belong to the certificate"),
            (&key, &key, "the certificate's file holds no certificate in PEM"),
            ("nothing", &key, "the certificate's file holds no certificate in PEM"),
            (&chain, &chain, "the key's file holds no private key in PEM"),
            (&chain, &locked, "the key's file holds a private key that has a passphrase"),
            (&chain, &cut, "the key's file is not PEM: a section has no end"),
        ] {
            assert_eq!(why(chain, key), expected);
        }
        let garbled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(
            why(garbled, &key).starts_with("the certificate's file holds a certificate that cannot be used")
        );
        let secret = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
        assert!(why(&chain, secret).starts_with("the key's file holds a key that cannot be used"));
    }

    #[test]
    fn it_is_for_its_names_and_for_a_time() {
        let (chain, _) = made(&["a.b", "*.c.d", "192.0.2.7", "2001:db8::7"], 2020, 2030);
        let certificate = Certificate::of(&chain).unwrap();
        assert_eq!(certificate.names, ["a.b", "*.c.d", "192.0.2.7", "2001:db8::7"]);
        for (host, expected) in [
            ("a.b", true),
            ("A.B", true),
            ("x.a.b", false),
            ("x.c.d", true),
            ("x.y.c.d", false),
            ("c.d", false),
            ("192.0.2.7", true),
            ("2001:db8::7", true),
            ("192.0.2.8", false),
        ] {
            assert_eq!(certificate.is_for(host), expected, "{host}");
        }
        let (since, until) = (1_577_836_800, 1_893_456_000);
        assert_eq!((certificate.since, certificate.until), (since, until));
        let day = 86_400;
        for (now, expected) in [
            (since - 1, Validity::NotYet),
            (since, Validity::Enough),
            (until - 14 * day, Validity::Enough),
            (until - 14 * day + 1, Validity::Short(13)),
            (until - day, Validity::Short(1)),
            (until, Validity::Short(0)),
            (until + 1, Validity::Expired),
        ] {
            assert_eq!(certificate.validity(now), expected, "{now}");
        }
        assert_eq!(Certificate::of("nothing"), None);
    }
}
