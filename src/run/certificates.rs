//! The certificates of listeners, looked at again and again: an ACME client renews them without a word to us.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use crate::certificate::Certificate;
use crate::certificate::Validity;
use crate::config::CertificateFiles;
use crate::config::Config;
use crate::config::Kind;
use crate::config::Referred;
use crate::config::secret::SecretValues;
use crate::host::certificates;
use crate::sys::clock;
use crate::wire::CertificateReport;

use super::Driver;
use super::reload::UnderWay;

/// Why there is none, or another one is gone on with than the files hold, by listener and number.
pub(super) type Faults = BTreeMap<(SocketAddr, usize), String>;

impl Driver {
    /// Looks whether the files hold something else than the router has, and tells it.
    pub(super) fn look_at_certificates(&mut self) {
        if matches!(self.under_way, Some(UnderWay::Applying(_))) {
            return;
        }
        let mut faults = Faults::new();
        let mut renewed = Vec::new();
        for listen in &self.running.config.listen {
            for (number, files) in listen.tls.iter().enumerate() {
                match self.read_certificate(files) {
                    Err(why) => {
                        faults.insert((listen.address, number), why);
                    }
                    Ok(values) if files.texts(&values) == files.texts(&self.running.secrets) => {}
                    Ok(values) => renewed.push((listen.address, values)),
                }
            }
        }
        for (address, why) in
            faults.iter().filter(|(place, why)| self.certificate_faults.get(place) != Some(why))
        {
            tracing::warn!("the certificate of {} is not taken: {why}", address.0);
        }
        self.certificate_faults = faults;
        if renewed.is_empty() {
            return;
        }
        for (address, values) in renewed {
            tracing::info!("new certificate of {address}");
            self.running.secrets.extend(values);
        }
        self.around.listeners.certify(&self.running.config.listen, &self.running.secrets);
        self.tell_table();
    }

    fn read_certificate(&self, files: &CertificateFiles) -> Result<SecretValues, String> {
        let both = [
            Referred::of_tls(&files.certificate, 0..0, Kind::Certificate),
            Referred::of_tls(&files.key, 0..0, Kind::Key),
        ];
        let user = &self.running.config.supervisor.user;
        let looked = certificates::read(&both, user, self.credentials.as_ref().map(Path::new));
        if let Some(fault) = looked.faults().next() {
            return Err(fault.what.clone());
        }
        Ok(looked.values)
    }

    /// What `status` says of those that need somebody.
    pub(super) fn certificate_notes(&self) -> Vec<String> {
        let secrets = &self.running.secrets;
        let faults = self.certificate_faults.iter().map(|((address, number), why)| {
            let listen = self.running.config.listen.iter().find(|listen| listen.address == *address);
            let files = listen.and_then(|listen| listen.tls.get(*number));
            match files.and_then(|files| files.texts(secrets)) {
                Some(_) => format!("{address} goes on with the certificate that it has: {why}"),
                None => format!("{address} has no certificate: {why}"),
            }
        });
        let now = clock::wall();
        let old = held(&self.running.config, secrets).filter_map(|(address, certificate)| {
            let names = certificate.names.join(", ");
            let what = match certificate.validity(now) {
                Validity::Enough => return None,
                Validity::Short(1) => "expires within 2 days".to_owned(),
                Validity::Short(0) => "expires within a day".to_owned(),
                Validity::Short(days) => format!("expires in {days} days"),
                Validity::Expired => "has expired".to_owned(),
                Validity::NotYet => "is not valid yet".to_owned(),
            };
            Some(format!(
                "the certificate of {address} ({names}) {what}: renew it, which is noticed by itself"
            ))
        });
        faults.chain(old).collect()
    }

    /// Those that listeners have.
    pub(super) fn certificates(&self) -> Vec<CertificateReport> {
        let report = |(address, certificate): (SocketAddr, Certificate)| CertificateReport {
            listen: address.to_string(),
            names: certificate.names,
            expires: certificate.until,
        };
        held(&self.running.config, &self.running.secrets).map(report).collect()
    }
}

fn held(config: &Config, secrets: &SecretValues) -> impl Iterator<Item = (SocketAddr, Certificate)> {
    config.listen.iter().flat_map(|listen| {
        let certificates = listen.tls.iter().filter_map(|files| Certificate::of(files.texts(secrets)?.0));
        certificates.map(|certificate| (listen.address, certificate))
    })
}
