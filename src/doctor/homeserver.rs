//! What the configuration lets anybody do, and what of it the installed Synapse does not know.

use toml::Value;

use crate::config::Config;

use super::Facts;
use super::Finding;

pub(super) fn examine(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![registration(config), admin(config, facts)];
    if facts.warnings.is_empty() {
        let who = if facts.installed { "the installed Synapse" } else { "no Synapse is installed; 1.163" };
        findings.push(Finding::fine("settings", format!("{who} knows all of them")));
    }
    for (what, remedy) in &facts.warnings {
        findings.push(Finding::warning("settings", what, remedy));
    }
    if facts.unfit.is_empty() {
        findings.push(Finding::fine("secrets", "those that the file names are there, as far as we may look"));
    }
    for (what, remedy) in &facts.unfit {
        findings.push(Finding::error("secrets", what, remedy));
    }
    findings
}

fn registration(config: &Config) -> Finding {
    let on = |setting: &str| config.synapse.get(setting).and_then(Value::as_bool).unwrap_or(false);
    let wants_address = config.synapse.get("registrations_require_3pid").and_then(Value::as_array);
    let guarded = on("registration_requires_token")
        || on("enable_registration_captcha")
        || wants_address.is_some_and(|kinds| !kinds.is_empty());
    if config.delegates_authentication() || !on("enable_registration") {
        return Finding::fine("registration", "is closed, or another service's");
    }
    if guarded {
        return Finding::fine(
            "registration",
            "is open to whoever has a token, an address or solves a riddle",
        );
    }
    Finding::warning(
        "registration",
        "anybody may register, and spammers find such a homeserver within days",
        "registration_requires_token = true in [synapse], then: synvisor register-token add",
    )
}

fn admin(config: &Config, facts: &Facts) -> Finding {
    // Synapse asks for a token (401); the router refuses (403) or knows nothing of it (404).
    if let Some(status @ (200 | 401)) = facts.public.admin {
        return Finding::error(
            "admin API",
            format!("it is reachable for everybody at {} (it answers {status})", config.public_baseurl),
            "remove admin = true from the [[listen]] that your web server goes to, and give the admin API a listener of its own",
        );
    }
    let open = config.listen.iter().find(|listen| listen.admin && !listen.address.ip().is_loopback());
    if let Some(open) = open {
        return Finding::warning(
            "admin API",
            format!("whoever reaches {} reaches it", open.address),
            "listen on 127.0.0.1, or see to it that only administrators reach this address",
        );
    }
    match (&facts.public.unasked, facts.public.admin) {
        (Some(why), _) => Finding::unknown("admin API", why),
        (None, None) => Finding::unknown("admin API", "the router was not reached by way of public_baseurl"),
        (None, Some(_)) => Finding::fine("admin API", "is not reachable from outside"),
    }
}
