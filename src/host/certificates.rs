//! The certificates of listeners: read, and held against their keys and the clock.

use std::path::Path;

use crate::certificate;
use crate::certificate::Certificate;
use crate::certificate::Fault;
use crate::certificate::Validity;
use crate::config::Kind;
use crate::config::Parsed;
use crate::config::Referred;
use crate::config::problem::Problem;
use crate::config::secret::SecretSource;
use crate::config::secret::SecretValues;
use crate::sys::clock;

use super::secrets;
use super::secrets::Found;

/// What was found of a certificate and its key.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    /// Both, where TLS can be spoken with them.
    pub values: SecretValues,
    /// Missing, empty, or a key that is not for us alone.
    pub unfit: Vec<Problem>,
    /// Nothing that we may read.
    pub hidden: Vec<Problem>,
    /// Nothing that TLS can be spoken with.
    pub wrong: Vec<Problem>,
    /// Nothing that is in the way.
    pub warnings: Vec<Problem>,
}

impl Looked {
    /// Why TLS cannot be spoken with it.
    pub fn faults(&self) -> impl Iterator<Item = &Problem> {
        self.unfit.iter().chain(&self.hidden).chain(&self.wrong)
    }

    fn add(&mut self, other: Self) {
        self.values.extend(other.values);
        self.unfit.extend(other.unfit);
        self.hidden.extend(other.hidden);
        self.wrong.extend(other.wrong);
        self.warnings.extend(other.warnings);
    }
}

/// Looks at those of every listener.
pub(super) fn look(parsed: &Parsed, credentials: Option<&Path>) -> Looked {
    let mut looked = Looked::default();
    let named = |source: &SecretSource, kind| {
        let mut files = parsed.files.iter();
        files.find(|file| file.kind == kind && file.source == *source).cloned()
    };
    for files in parsed.config.listen.iter().flat_map(|listen| &listen.tls) {
        let both = (named(&files.certificate, Kind::Certificate), named(&files.key, Kind::Key));
        if let (Some(certificate), Some(key)) = both {
            looked.add(read(&[certificate, key], &parsed.config.supervisor.user, credentials));
        }
    }
    looked
}

/// Looks at a certificate and its key.
pub fn read(both: &[Referred; 2], user: &str, credentials: Option<&Path>) -> Looked {
    let [certificate, key] = both;
    let Found { values, unfit, hidden } = secrets::look(both, user, credentials);
    let mut looked = Looked { unfit, hidden, ..Looked::default() };
    if looked.faults().next().is_some() {
        return looked;
    }
    let (chain, private) = (values.get(&certificate.source), values.get(&key.source));
    let fault = |file: &Referred, what: &str, remedy: &str| {
        Problem::error(file.place.clone(), format!("{} {what}", file.source), remedy)
    };
    match certificate::pair(chain, private) {
        Err(Fault::Certificate { what, remedy }) => {
            looked.wrong.push(fault(certificate, &what, remedy));
        }
        Err(Fault::Key { what, remedy }) => looked.wrong.push(fault(key, &what, remedy)),
        Ok(_) => {
            let own = Certificate::of(chain);
            let what = own.and_then(|own| what_of(own.validity(clock::wall())));
            looked.warnings.extend(what.map(|what| {
                let remedy =
                    "renew it: clients and other servers refuse it; a renewed one is noticed by itself";
                fault(certificate, what, remedy).into_warning()
            }));
            looked.values = values;
        }
    }
    looked
}

const fn what_of(validity: Validity) -> Option<&'static str> {
    match validity {
        Validity::Expired => Some("holds a certificate that has expired"),
        Validity::NotYet => Some("holds a certificate that is not valid yet"),
        Validity::Enough | Validity::Short(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fs;

    struct Files(tempfile::TempDir);

    impl Files {
        fn write(&self, name: &str, text: &str, mode: u32) {
            fs::replace(&self.0.path().join(name), text.as_bytes(), mode, None).unwrap();
        }

        fn read(&self) -> Looked {
            let source = |name: &str| SecretSource::File(self.0.path().join(name));
            let both = [
                Referred::of_tls(&source("chain"), 1..2, Kind::Certificate),
                Referred::of_tls(&source("key"), 3..4, Kind::Key),
            ];
            read(&both, "nobody", None)
        }

        /// What is said, as `what place`; nothing of it is used then.
        fn faults(&self) -> Vec<String> {
            let looked = self.read();
            assert_eq!(looked.values, SecretValues::default());
            let shown = |problem: &Problem| {
                let what = problem.what.replace(&format!("{}/", self.0.path().display()), "");
                format!("{what} {:?}", problem.place.clone().unwrap())
            };
            looked.faults().map(shown).collect()
        }
    }

    fn made(until: i32) -> (String, String) {
        let mut asked = rcgen::CertificateParams::new(vec!["a.b".to_owned()]).unwrap();
        asked.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        (asked.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn what_is_wrong_with_a_pair_is_said_of_the_right_file() {
        let files = Files(tempfile::tempdir().unwrap());
        let (chain, key) = made(4000);
        files.write("key", &key, 0o600);
        assert_eq!(files.faults(), ["cannot read chain: No such file or directory (os error 2) 1..2"]);
        files.write("chain", &chain, 0o644);
        let looked = files.read();
        assert_eq!((looked.faults().count(), looked.warnings.len()), (0, 0));
        let source = SecretSource::File(files.0.path().join("key"));
        assert_eq!(looked.values.get(&source), key.trim_end());
        files.write("key", &key, 0o640);
        assert_eq!(files.read().faults().count(), 0);
        files.write("key", &key, 0o644);
        assert_eq!(
            files.faults(),
            ["key is a secret, and others than its owner may use it (mode 0644) 3..4"]
        );
        files.write("key", &made(4000).1, 0o600);
        assert_eq!(files.faults(), ["key does not belong to the certificate 3..4"]);
        files.write("key", &key, 0o600);
        files.write("chain", &chain[..200], 0o644);
        assert_eq!(files.faults(), ["chain is not PEM: a section has no end 1..2"]);
    }

    #[test]
    fn one_that_has_expired_is_served_with_all_the_same() {
        let files = Files(tempfile::tempdir().unwrap());
        let (chain, key) = made(2000);
        files.write("chain", &chain, 0o644);
        files.write("key", &key, 0o600);
        let looked = files.read();
        assert_eq!((looked.faults().count(), looked.warnings.len()), (0, 1));
        assert!(looked.warnings[0].what.ends_with("chain holds a certificate that has expired"));
        assert_ne!(looked.values, SecretValues::default());
    }
}
