//! What has to be known of a homeserver: from its file, from answers in advance, or from somebody at a terminal.

use std::io::BufRead;
use std::io::IsTerminal;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use crate::config::edit;
use crate::config::effective::Effective;
use crate::config::effective::Origin;
use crate::config::problem::Severity;
use crate::host::machine::Machine;
use crate::host::toml;
use crate::host::toml::Document;
use crate::host::toml::Unusable;
use crate::host::toml::Usable;

use super::Exit;
use super::output;
use super::output::fail;

/// The name in the file as the packages install it; who has not touched it has not set up anything.
pub(super) const UNNAMED: &str = "example.com";

/// Answers that were given in advance.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Answers {
    /// The domain in user ids, as in @alice:example.com; it can never change.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Where clients reach the homeserver: https://matrix.example.com/, for instance.
    #[arg(long, value_name = "URL")]
    public_baseurl: Option<String>,
    /// How many workers to begin with: none, little-federation-helper, one-of-each or specialized-workers.
    #[arg(long)]
    preset: Option<String>,
    /// A PostgreSQL that is there (external), or one that synvisor runs (embedded).
    #[arg(long, value_name = "MODE", value_parser = ["external", "embedded"])]
    database: Option<String>,
    /// The same for Redis.
    #[arg(long, value_name = "MODE", value_parser = ["external", "embedded"])]
    redis: Option<String>,
    /// Where uploads lie, if not in the state directory.
    #[arg(long, value_name = "DIR")]
    pub(super) media: Option<PathBuf>,
    /// The version of Synapse; the newest if none is said.
    #[arg(long, value_name = "VERSION")]
    pub(super) synapse: Option<String>,
    /// Ask nothing: what is not said is as it is suggested.
    #[arg(long, short)]
    yes: bool,
}

/// Writes down what was answered in advance, and asks the rest. What the file says already is kept, and who is set up is
/// asked nothing.
pub(super) fn settle(path: &Path, checked: &Usable, answers: &Answers) -> Result<String, Exit> {
    let config = &checked.parsed.config;
    let fresh = config.server_name == UNNAMED && answers.server_name.as_deref() != Some(UNNAMED);
    let sheet = Sheet {
        path,
        text: &checked.text,
        said: &checked.parsed.effective,
        fresh,
        ask: fresh && !answers.yes && std::io::stdin().is_terminal() && std::io::stderr().is_terminal(),
    };
    let machine = Machine::look();
    let mut keys = Vec::new();
    let name = if fresh {
        let question = "Domain in user ids (@alice:DOMAIN); it can never change";
        let name = match &answers.server_name {
            Some(name) => name.clone(),
            None if sheet.ask => sheet.question(question, "", ("", "server_name"))?,
            None => String::new(),
        };
        if name.is_empty() {
            output::problem("the homeserver needs a name\n  synvisor init --server-name example.com");
            return Err(Exit::Usage);
        }
        keys.push(("", "server_name", name.clone()));
        name
    } else {
        sheet.refuse_another("--server-name", &answers.server_name, &config.server_name)?;
        config.server_name.clone()
    };
    let url = Blank {
        flag: "--public-baseurl",
        table: "",
        key: "public_baseurl",
        question: "Where clients reach it",
    };
    keys.extend(sheet.fill(url, &answers.public_baseurl, &format!("https://{name}/"))?);
    let question = format!("Workers ({})", machine.describe());
    let workers = Blank { flag: "--preset", table: "workers", key: "preset", question: &question };
    let workers = sheet.fill(workers, &answers.preset, machine.preset())?;
    let none = workers.as_ref().is_some_and(|(.., preset)| preset == "none");
    keys.extend(workers);
    let question = "PostgreSQL: external or embedded";
    let database = Blank { flag: "--database", table: "database", key: "mode", question };
    let database = sheet.fill(database, &answers.database, machine.database())?;
    if database.as_ref().is_some_and(|(.., mode)| mode == "external")
        && sheet.said("database", "user").is_none()
    {
        // Debian's PostgreSQL lets each system user in under its own name.
        keys.push(("database", "user", config.supervisor.user.clone()));
    }
    keys.extend(database);
    if !none || answers.redis.is_some() {
        let question = "Redis: external or embedded";
        let redis = Blank { flag: "--redis", table: "redis", key: "mode", question };
        keys.extend(sheet.fill(redis, &answers.redis, machine.redis())?);
    }
    let set = |text: String, (table, key, value): (&str, &str, String)| edit::set(&text, table, key, &value);
    keys.into_iter().try_fold(checked.text.clone(), set).map_err(|why| fail(&why))
}

/// A key that may have to be filled in.
struct Blank<'a> {
    flag: &'a str,
    table: &'static str,
    key: &'static str,
    question: &'a str,
}

/// The file, as far as it says anything.
struct Sheet<'a> {
    path: &'a Path,
    text: &'a str,
    said: &'a [Effective],
    /// Whether nobody has set up anything.
    fresh: bool,
    /// Whether there is somebody to ask.
    ask: bool,
}

impl Sheet<'_> {
    /// What stands in the file.
    fn said(&self, table: &str, key: &str) -> Option<&str> {
        let held = self.here(table).find(|held| held.key == key)?;
        Some(held.value.trim_matches('"'))
    }

    fn here(&self, table: &str) -> impl Iterator<Item = &Effective> {
        let shown = if table.is_empty() { String::new() } else { format!("[{table}]") };
        self.said.iter().filter(move |held| held.table == shown && matches!(held.origin, Origin::At(_)))
    }

    /// The key with its value, if it is to be written.
    fn fill(
        &self,
        blank: Blank<'_>,
        given: &Option<String>,
        suggested: &str,
    ) -> Result<Option<(&'static str, &'static str, String)>, Exit> {
        let Blank { flag, table, key, question } = blank;
        if let Some(held) = self.said(table, key) {
            self.refuse_another(flag, given, held)?;
            return Ok(None);
        }
        // Whoever has written an address has no need of a mode.
        let begun = key == "mode" && self.here(table).next().is_some();
        match given {
            Some(value) if self.fresh => Ok(Some((table, key, value.clone()))),
            Some(value) => {
                let place = if table.is_empty() { String::new() } else { format!(" in [{table}]") };
                Err(fail(&format!(
                    "{} is set up already, and {flag} changes nothing of it\n  write {key} = \"{value}\"{place} yourself",
                    self.path.display()
                )))
            }
            None if !self.fresh || begun => Ok(None),
            None if self.ask => Ok(Some((table, key, self.question(question, suggested, (table, key))?))),
            None => Ok(Some((table, key, suggested.to_owned()))),
        }
    }

    /// Asks until the answer can stand in the file.
    fn question(&self, question: &str, suggested: &str, key: (&str, &str)) -> Result<String, Exit> {
        loop {
            let answer = question_on_terminal(question, suggested)?;
            match self.suits(key, &answer) {
                Ok(()) => return Ok(answer),
                Err(why) => output::problem(why),
            }
        }
    }

    fn suits(&self, (table, key): (&str, &str), answer: &str) -> Result<(), String> {
        let text = edit::set(self.text, table, key, answer)?;
        let document = Document { name: self.path.display().to_string(), text };
        match toml::usable_as(document, self.path, None) {
            Err(Unusable::Problems(_, problems)) => {
                let wrong = problems.iter().find(|problem| problem.severity == Severity::Error);
                wrong.map_or(Ok(()), |wrong| Err(format!("{}\n  {}", wrong.what, wrong.remedy)))
            }
            Err(unread @ Unusable::Unread { .. }) => Err(unread.to_string()),
            Ok(_) => Ok(()),
        }
    }

    /// What is set up is never overwritten.
    fn refuse_another(&self, flag: &str, given: &Option<String>, held: &str) -> Result<(), Exit> {
        match given {
            Some(given) if given.trim_end_matches('/') != held.trim_end_matches('/') => Err(fail(&format!(
                "{} says {held}, and {flag} says {given}: what is set up is not overwritten\n  \
                 leave {flag} out, or edit the file",
                self.path.display()
            ))),
            Some(_) | None => Ok(()),
        }
    }
}

fn question_on_terminal(question: &str, suggested: &str) -> Result<String, Exit> {
    let mut out = std::io::stderr();
    let shown = if suggested.is_empty() { String::new() } else { format!(" [{suggested}]") };
    let _ = write!(out, "{question}{shown}: ");
    let _ = out.flush();
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line) {
        Ok(0) | Err(_) => {
            output::problem("\nnothing was changed");
            Err(Exit::Failed)
        }
        Ok(_) if line.trim().is_empty() => Ok(suggested.to_owned()),
        Ok(_) => Ok(line.trim().to_owned()),
    }
}
