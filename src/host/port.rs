//! Synapse's data from a file of SQLite into PostgreSQL, by Synapse's own script.

use std::ffi::CString;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::json;
use toml::Table;

use crate::config::Config;
use crate::config::secret::SecretValues;
use crate::render;
use crate::sys::fs;
use crate::sys::handle;
use crate::sys::handle::Handle;
use crate::sys::process;
use crate::sys::users::User;
use crate::topology::Topology;
use crate::topology::UnitName;

use super::layout::Layout;
use super::program;
use super::python;

/// A database of SQLite as it was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Sqlite {
    pub schema: i64,
    /// What Synapse has begun to change in it and not ended.
    updates: u64,
    someone: Option<String>,
    vacuum: i64,
}

impl Sqlite {
    /// Looks at one; the server that has it may go on.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn look(venv: &Path, database: &Path) -> Result<Self, String> {
        let mut command = python::command(venv, None);
        command.env_clear();
        python::ask(command, include_str!("sqlite.py"), &json!(database))
            .map_err(|why| format!("{}: {why}", database.display()))
    }

    /// Whether it can be ported by a Synapse that migrates databases to this schema.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn suits(&self, newest: i64, server_name: &str) -> Result<(), String> {
        if self.schema > newest {
            return Err(format!(
                "it has schema {}, and this Synapse knows {newest}\n  name a newer one in [python] synapse",
                self.schema
            ));
        }
        if self.updates > 0 {
            return Err(format!(
                "{} background updates are not done, and Synapse's own script wants them to be\n  \
                 let the old server run until its table background_updates is empty",
                self.updates
            ));
        }
        if self.vacuum != 0 {
            return Err("it has auto_vacuum on, which Synapse's own script refuses\n  \
                 stop the old server, and: sqlite3 FILE 'PRAGMA auto_vacuum=off; VACUUM'"
                .to_owned());
        }
        let other = self.someone.as_ref().and_then(|user| user.split_once(':'));
        match other.filter(|(_, name)| *name != server_name) {
            Some((_, name)) => {
                Err(format!("it is that of {name}, and the configuration is for {server_name}"))
            }
            None => Ok(()),
        }
    }
}

/// A port to be done: from which file, into the database of which configuration.
#[derive(Clone, Debug)]
pub struct Port<'a> {
    pub database: &'a Path,
    pub config: &'a Config,
    pub secrets: &'a SecretValues,
    pub layout: &'a Layout,
    pub user: Option<&'a User>,
}

impl Port<'_> {
    /// Fills an empty database. The file stays as it is: the script would migrate it, so that a copy is what it works on.
    /// (The script could go on from an earlier pass, while the old server runs; but rows that had changed since in tables that
    /// it takes for append-only would stay as they were then.)
    ///
    /// # Errors
    /// What the script said.
    pub fn carry_out(&self, say: &mut dyn FnMut(&str)) -> Result<(), String> {
        let settings = self.layout.temporary().join("port.yaml");
        say("copying the file");
        let copied = self.copy().map_err(|error| fs::at("copy", self.database)(error).to_string());
        copied?;
        let config = without_pauses(self.config);
        let files = render::render(&config, &Topology::of(&config), self.secrets);
        let main = self.layout.config_file(&UnitName::main());
        let text = files.iter().find(|(path, _)| **path == main).map(|(_, file)| file.bytes.clone());
        let text = text.ok_or("there is no configuration of main")?;
        fs::replace(&settings, &text, 0o600, self.user).map_err(|error| error.to_string())?;
        let done = self.run(&settings, say);
        fs::remove(&settings).map_err(|error| error.to_string())?;
        for name in NAMES {
            fs::remove(&self.layout.temporary().join(name)).map_err(|error| error.to_string())?;
        }
        done
    }

    /// Copies it with what SQLite keeps beside it, as whoever may read it; nobody may have it open.
    fn copy(&self) -> std::io::Result<()> {
        let to = Handle::open(&self.layout.temporary())?;
        for (name, path) in NAMES.iter().zip(beside(self.database)) {
            let name = CString::new(*name)?;
            to.remove(&name)?;
            let mut from = match File::open(path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                from => from?,
            };
            let mut file = to.create(&name)?;
            std::io::copy(&mut from, &mut file)?;
            handle::give(&file, self.user)?;
        }
        Ok(())
    }

    fn run(&self, settings: &Path, say: &mut dyn FnMut(&str)) -> Result<(), String> {
        let mut command = python::command(&self.config.python.venv, self.user);
        let main = self.config.units.of(UnitName::main().as_str(), None);
        command.env_clear().envs(main.environment).env("PYTHONUNBUFFERED", "1").stdin(Stdio::null());
        process::end_with_us(&mut command, Signal::SIGKILL);
        command
            .args(["-W", "ignore", "-c", SCRIPT, "--sqlite-database"])
            .arg(self.layout.temporary().join(NAMES[0]))
            .arg("--postgres-config")
            .arg(settings);
        program::run(command, &mut |line| {
            // "events: 40% (400/1000)"; what it logs begins with the date.
            if !line.starts_with(|sign: char| sign.is_ascii_digit()) {
                say(line);
            }
        })
    }
}

/// The script takes the new database through all of Synapse's background updates first, and rests a second after each, some
/// sixty of them (`do_next_background_update(True)` in synapse_port_db.py): nobody is there to be spared.
fn without_pauses(config: &Config) -> Config {
    let mut config = config.clone();
    let updates = config.synapse.entry("background_updates").or_insert_with(|| Table::new().into());
    if let Some(updates) = updates.as_table_mut() {
        updates.insert("sleep_duration_ms".to_owned(), 0.into());
    }
    config
}

/// Synapse's own script. It loads the modules that the configuration names, which isolated mode leaves unfound.
const SCRIPT: &str = r#"
import os, runpy, sys
sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
runpy.run_module("synapse._scripts.synapse_port_db", run_name="__main__", alter_sys=True)
"#;

/// Size and time of a database and of what SQLite keeps beside it, by which one knows whether somebody has written.
pub fn state(database: &Path) -> Vec<(u64, (i64, i64))> {
    let state = |path: PathBuf| Some((fs::length(&path).ok()?, fs::modified(&path)?));
    beside(database).into_iter().filter_map(state).collect()
}

/// A database, and what SQLite keeps beside it, under the names of the copy.
const NAMES: [&str; 3] = ["port.db", "port.db-wal", "port.db-journal"];

/// Where these are of a database.
pub fn beside(database: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-journal"].map(|end| {
        let mut name = database.as_os_str().to_owned();
        name.push(end);
        name.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_script_would_refuse_is_said_before_the_old_server_stops() {
        // Mutation: auto_vacuum not looked at: seen red.
        let fine = Sqlite { schema: 92, updates: 0, someone: Some("@a:b.c".to_owned()), vacuum: 0 };
        fine.suits(92, "b.c").unwrap();
        assert!(Sqlite { schema: 93, ..fine.clone() }.suits(92, "b.c").unwrap_err().contains("knows 92"));
        assert!(Sqlite { updates: 1, ..fine.clone() }.suits(92, "b.c").unwrap_err().contains("background"));
        assert!(Sqlite { vacuum: 1, ..fine.clone() }.suits(92, "b.c").unwrap_err().contains("auto_vacuum"));
        assert!(fine.suits(92, "d.e").unwrap_err().contains("that of b.c"));
    }
}
