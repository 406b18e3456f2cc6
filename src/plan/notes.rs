//! What a plan tells beside its steps: every change, and what an administrator should know.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use crate::config::CertificateFiles;
use crate::config::Listen;
use crate::config::difference;
use crate::config::difference::Difference;
use crate::config::secret::SecretSource;

use super::deployment::Deployment;
use super::deployment::Digest;
use super::settings::Named;

/// Every setting that differs and every file whose content does.
pub(super) fn changes(old: &Deployment, new: &Deployment) -> Vec<Difference> {
    let mut changes = difference::differences(&old.effective, &new.effective);
    if old.synapse_version != new.synapse_version {
        changes.push(Difference {
            what: "version of Synapse".to_owned(),
            old: Some(old.synapse_version.clone()),
            new: Some(new.synapse_version.clone()),
        });
    }
    let files = |deployment: &Deployment| -> BTreeSet<(Named, Digest)> {
        let images = deployment.images.values();
        images.flat_map(|image| &image.files).map(|(named, held)| (named.clone(), held.clone())).collect()
    };
    let (held, hold) = (files(old), files(new));
    let names: BTreeSet<&Named> = held.iter().map(|(named, _)| named).collect();
    let other = hold.difference(&held).map(|(named, _)| named).filter(|named| names.contains(named));
    let other: BTreeSet<&Path> = other.map(|named| named.path.as_path()).collect();
    let of_tls = |source: &&SecretSource| {
        let mut files = new.config.listen.iter().flat_map(|listen| &listen.tls);
        files.any(|files| [&files.certificate, &files.key].contains(source))
    };
    let secrets =
        new.secrets.changed(&old.secrets).filter(|source| !of_tls(source)).map(|source| match source {
            SecretSource::File(path) => content(path),
            SecretSource::Credential(name) => Difference::of(format!("content of the credential {name}")),
        });
    let certificates =
        certificates(old, new).map(|address| Difference::of(format!("certificate of {address}")));
    changes.extend(other.into_iter().map(content).chain(secrets).chain(certificates));
    changes
}

/// The listeners that get another certificate.
pub(super) fn certificates(old: &Deployment, new: &Deployment) -> impl Iterator<Item = SocketAddr> {
    let texts = |deployment: &Deployment, listen: &Listen| -> Vec<Option<(String, String)>> {
        let text = |files: &CertificateFiles| {
            files.texts(&deployment.secrets).map(|(chain, key)| (chain.to_owned(), key.to_owned()))
        };
        listen.tls.iter().map(text).collect()
    };
    let both = new.config.listen.iter().filter_map(|listen| {
        let before = old.config.listen.iter().find(|before| before.address == listen.address)?;
        (!before.tls.is_empty() && !listen.tls.is_empty()).then_some((before, listen))
    });
    let other = both.filter(move |(before, listen)| texts(old, before) != texts(new, listen));
    other.map(|(_, listen)| listen.address)
}

fn content(path: &Path) -> Difference {
    Difference::of(format!("content of {}", path.display()))
}

/// What an administrator should know.
pub(super) fn notes(old: &Deployment, new: &Deployment) -> Vec<String> {
    let mut notes = Vec::new();
    if !new.credentials.is_empty() {
        let names: Vec<&str> = new.credentials.iter().map(String::as_str).collect();
        notes.push(format!(
            "systemd hands over credentials only when the service starts: after a change to {} run systemctl restart synvisor",
            names.join(", ")
        ));
    }
    let (was, is) = (&old.config, &new.config);
    if was.database.is_embedded() != is.database.is_embedded() {
        notes.push(
            "nothing is moved from one database to the other: the new one must hold the homeserver's data already"
                .to_owned(),
        );
    }
    let kept = [
        ("PostgreSQL", was.database.is_embedded() && is.database.is_embedded()),
        ("Redis", was.redis.is_embedded() && is.redis.is_embedded()),
    ];
    let kept: Vec<&str> = kept.into_iter().filter(|(_, kept)| *kept).map(|(name, _)| name).collect();
    if was.python != is.python && !kept.is_empty() {
        let verb = if kept.len() == 1 { "runs" } else { "run" };
        notes.push(format!(
            "embedded {} {verb} on from {} until the service restarts: keep that directory until then",
            kept.join(" and "),
            was.python.venv.display()
        ));
    }
    notes
}
