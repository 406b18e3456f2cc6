//! Application services, like bridges: programs of their own, of which only the registrations are Synapse's.

use super::report::Verdict;
use super::services;
use super::translate::Translator;
use super::yaml;
use super::yaml::Value;

/// The setting that names the files of registrations.
pub(super) const FILES: &str = "app_service_config_files";

impl Translator<'_> {
    /// Says of each registration what would keep Synapse and its program apart.
    pub(super) fn registrations(&mut self) {
        let paths = self.from.get(FILES).map(Value::list).unwrap_or_default();
        for path in paths.iter().filter_map(Value::text) {
            let here = self.from.here(path);
            match self.files.get(&here) {
                Some(Ok(text)) => self.registration(&here, text),
                Some(Err(why)) => {
                    self.note(FILES, Verdict::Left, format!("{why}, and Synapse does not start without it"));
                }
                None => {}
            }
        }
    }

    fn registration(&mut self, path: &str, text: &str) {
        let Ok(registration) = yaml::parse(text) else { return };
        let Some(url) = registration.at("url").and_then(Value::text) else { return };
        let host = services::host_of(url);
        if self.from.container && !host.is_empty() && services::is_local_name(host) {
            let text = format!(
                "{path} has {host} for its url, which is a place within Docker: have that port published on 127.0.0.1, and write that as url; \
                 and tell the program that its homeserver is at an address that its container reaches, like the gateway of its \
                 network, with a [[listen]] there"
            );
            self.note(FILES, Verdict::Left, text);
        }
    }
}
