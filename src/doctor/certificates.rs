//! The certificates of listeners that speak TLS themselves.

use crate::certificate::Validity;
use crate::config::Config;
use crate::config::host_and_port;

use super::Facts;
use super::Finding;
use super::facts::Served;

const CHECK: &str = "certificate";

pub(super) fn examine(config: &Config, facts: &Facts) -> Vec<Finding> {
    let faults = facts.without_certificate.iter().map(|trouble| Finding::trouble(CHECK, trouble, ""));
    let mut findings: Vec<Finding> = faults.chain(facts.certificates.iter().map(age)).collect();
    for listen in config.listen.iter().filter(|listen| !listen.tls.is_empty()) {
        let own: Vec<&Served> =
            facts.certificates.iter().filter(|served| served.listen == listen.address).collect();
        let is_for = |host: &str| own.iter().any(|served| served.certificate.is_for(host));
        let hosts = hosts(config);
        if !own.is_empty() && !hosts.iter().any(|host| is_for(host)) {
            let names: Vec<String> =
                own.iter().flat_map(|served| served.certificate.names.iter().cloned()).collect();
            findings.push(Finding::warning(
                CHECK,
                format!(
                    "no certificate of {} is for {}: {}",
                    listen.address,
                    hosts.join(" or "),
                    names.join(", ")
                ),
                "have your ACME client ask for the name by which clients, or other servers, come here",
            ));
        }
    }
    findings
}

/// Whom clients and other servers may want to find: the hosts of public_baseurl and server_name.
fn hosts(config: &Config) -> Vec<String> {
    let url = config.public_baseurl.split_once("://").map_or("", |(_, rest)| rest);
    let public = url.split('/').next().unwrap_or_default();
    let mut hosts: Vec<String> = [public, &config.server_name]
        .map(|name| host_and_port(name).map_or(name, |(host, _)| host).trim_matches(['[', ']']).to_owned())
        .to_vec();
    hosts.dedup();
    hosts
}

fn age(served: &Served) -> Finding {
    let Served { listen, certificate, validity } = served;
    let which = format!("that of {listen} ({})", certificate.names.join(", "));
    let renew = "renew it: your ACME client should have done so (its log says why not); what it writes is noticed by itself";
    match validity {
        Validity::Enough => Finding::fine(CHECK, format!("{which} is valid for two weeks at least")),
        Validity::Short(days) => Finding::warning(CHECK, format!("{which} has {days} days left"), renew),
        Validity::Expired => Finding::error(CHECK, format!("{which} has expired"), renew),
        Validity::NotYet => Finding::error(
            CHECK,
            format!("{which} is not valid yet"),
            "set the clock of this machine right, or renew the certificate",
        ),
    }
}
