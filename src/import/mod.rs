//! From the configuration of another installation to synvisor's TOML, the files of its secrets, and a report of what
//! became of everything that was said.
//!
//! Sources are read into an [`installation::Installation`], which is what its processes of Synapse read; that is then
//! translated, whatever it came from.

use crate::config::secret::Secret;

mod appservices;
mod docker;
mod document;
mod files;
mod installation;
mod jinja;
mod listeners;
mod mdad;
pub mod report;
mod secrets;
mod services;
pub mod source;
mod translate;
mod variables;
mod workers;
mod yaml;

use installation::Installation;
use report::Entry;
use report::Report;
use report::Verdict;
use source::Content;
use source::Place;
use source::Source;
pub use translate::Files;
pub use translate::SECRETS;

/// An installation that was recognised, before what it names was read.
#[derive(Clone, Debug)]
pub struct Found(Installation);

/// What an import writes.
#[derive(Clone, Debug)]
pub struct Imported {
    pub toml: String,
    /// Names below [`SECRETS`], and what is in them.
    pub secrets: Vec<(String, String)>,
    pub report: Report,
}

/// What stands above the keys.
const HEAD: &str = "Made by `synvisor import`; REPORT.md beside it says what became of each setting.\n\
                    Paths that do not begin with / start in the directory of this file.";

/// Reads the sources of one installation; `mounts` are directories of its container, and where they are here.
///
/// # Errors
/// All that is wrong with them, as it is shown to a person.
pub fn read(sources: &[Source], mounts: &[(String, String)]) -> Result<Found, String> {
    let mut problems = String::new();
    let (mut settings, mut workers, mut playbook, mut containers) = (vec![], vec![], vec![], vec![]);
    let mut entries = Vec::new();
    for source in sources {
        match source::content(source) {
            Err(problem) => problems.push_str(&problem.print(&source.path, &source.text)),
            Ok(Content::Settings(_)) if source.place == Place::Beside => {
                let why = "Synapse is given homeserver.yaml and conf.d: name this file as well if it is given it too";
                entries.push(whole(source, Verdict::Changed, why));
            }
            Ok(Content::Settings(map)) => settings.push((source, map)),
            Ok(Content::Worker(map)) => workers.push((source, map)),
            Ok(Content::Playbook(map)) => playbook.push((source, map)),
            Ok(Content::Container(container)) => containers.push((source, container)),
            Ok(Content::Other(why)) => entries.push(whole(source, Verdict::Changed, why)),
            Ok(Content::Unknown) if source.place == Place::Named => problems.push_str(&format!(
                "{} is nothing that can be imported\n  name a homeserver.yaml, files of workers, a directory of them, vars.yml and \
                 inventory of matrix-docker-ansible-deploy,\n  or an env file, a compose file or the output of `docker inspect`\n",
                source.path
            )),
            Ok(Content::Unknown) => {
                entries.push(whole(source, Verdict::Changed, "it is not Synapse's configuration"));
            }
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut found = Installation { mounts: mounts.to_vec(), entries, ..Installation::default() };
    if !playbook.is_empty() {
        if !settings.is_empty() || !workers.is_empty() || !containers.is_empty() {
            return Err("these are two installations: variables of a playbook, and files of Synapse's own\n  \
                        name either vars.yml and the inventory, or what the playbook made of them (/matrix/synapse/config)\n"
                .to_owned());
        }
        mdad::read(&mut found, &playbook);
    } else {
        files::read(&mut found, settings, workers);
        for (source, container) in containers {
            docker::read(&mut found, source, container)?;
        }
        found.find_mounts();
    }
    complete(&found)?;
    Ok(Found(found))
}

fn whole(source: &Source, verdict: Verdict, why: &str) -> Entry {
    let text = format!("not read: {why}");
    Entry { source: source.path.clone(), name: "the file".to_owned(), verdict, text }
}

/// Whether there is enough for a homeserver, and nothing that would harm it.
fn complete(found: &Installation) -> Result<(), String> {
    if found.text("server_name").is_none_or(str::is_empty) {
        return Err(
            "no source says the name of the homeserver (server_name, matrix_domain, SYNAPSE_SERVER_NAME)\n  \
                    name the file that does as well: Debian's package has it in /etc/matrix-synapse/conf.d\n"
                .to_owned(),
        );
    }
    let several = found.get("databases").and_then(yaml::Value::map).is_some_and(|map| map.len() > 1);
    if several && found.get("database").is_none() {
        return Err("the sources name several databases, and synvisor runs a homeserver on one database\n  \
                    move the tables of state into the main one first (Synapse's documentation, \"Using multiple databases\")\n"
            .to_owned());
    }
    Ok(())
}

impl Found {
    /// Files of this machine that have to be read: of logs, of secrets, and registrations of application services.
    pub fn wanted(&self) -> Vec<String> {
        let from = &self.0;
        let mut paths: Vec<&str> = Secret::ALL
            .into_iter()
            .filter_map(|secret| from.text(&format!("{}_path", secret.setting())))
            .collect();
        paths.extend(from.text("log_config"));
        let of_worker =
            |worker: &installation::WorkerFile| yaml::get(&worker.settings, "worker_log_config").cloned();
        let logs: Vec<yaml::Value> = from.workers.iter().filter_map(of_worker).collect();
        paths.extend(logs.iter().filter_map(yaml::Value::text));
        let registrations = from.get(appservices::FILES).map(yaml::Value::list).unwrap_or_default();
        paths.extend(registrations.iter().filter_map(yaml::Value::text));
        let mut wanted: Vec<String> = paths.into_iter().map(|path| from.here(path)).collect();
        if from.get("signing_key_path").is_none() {
            wanted.extend(secrets::default_signing_key(from));
        }
        wanted
    }

    /// Makes the TOML file, with what the files hold that were [`Self::wanted`].
    pub fn translate(&self, files: &Files, signing_key: Option<&str>) -> Imported {
        let translation = translate::translate(&self.0, files, signing_key);
        let head = format!("The homeserver {}.\n{HEAD}", self.0.text("server_name").unwrap_or_default());
        Imported {
            toml: translation.document.print(&head),
            secrets: translation.secrets.into_iter().collect(),
            report: translation.report,
        }
    }
}
