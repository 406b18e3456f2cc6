//! The server that this one takes the place of: what its homeserver.yaml says, and the journal of the move.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;

use crate::moving::steps::Command;
use crate::moving::steps::Journal;
use crate::sys::fs;
use crate::sys::users;
use crate::sys::users::User;

use super::layout::Layout;
use super::python;

/// Longest time for an answer that a check waits for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a move has to know of the old configuration; the rest is in ours by now.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Settings {
    pub server_name: String,
    database: Option<Database>,
    /// A relative path starts where Synapse was started.
    media_store_path: Option<PathBuf>,
    signing_key_path: Option<PathBuf>,
    #[serde(default)]
    listeners: Vec<Listener>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Listener {
    /// None of one at a Unix socket.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Database {
    name: String,
    args: Option<Arguments>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Arguments {
    /// SQLite's file, or the name of a database (libpq takes both words).
    database: Option<String>,
    dbname: Option<String>,
    user: Option<String>,
}

/// Where the old data are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// In this database of PostgreSQL, to which the old server comes as this user.
    Postgres {
        user: Option<String>,
        name: Option<String>,
    },
    Sqlite(PathBuf),
}

impl Settings {
    /// Reads a homeserver.yaml.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read(path).map_err(|error| error.to_string())?;
        serde_saphyr::from_str(&text).map_err(|error| {
            format!("{}: {error}\n  name the homeserver.yaml of the old server", path.display())
        })
    }

    /// Which database it names; relative paths start at `base`.
    ///
    /// # Errors
    /// It names none that we know.
    pub fn store(&self, base: &Path) -> Result<Store, String> {
        let args = |database: &Database| database.args.clone();
        match &self.database {
            Some(database) if database.name == "psycopg2" => {
                let args = args(database);
                Ok(Store::Postgres {
                    user: args.as_ref().and_then(|args| args.user.clone()),
                    name: args.and_then(|args| args.dbname.or(args.database)),
                })
            }
            Some(database) if database.name == "sqlite3" => {
                let file = args(database).and_then(|args| args.database);
                // 1.163: `synapse/config/database.py`.
                Ok(Store::Sqlite(base.join(file.unwrap_or_else(|| "homeserver.db".to_owned()))))
            }
            Some(database) => {
                Err(format!("the old database is {}, and Synapse knows none such", database.name))
            }
            None => Ok(Store::Sqlite(base.join("homeserver.db"))),
        }
    }

    /// Whether it listens on this port, which is free when it has stopped.
    pub fn has_port(&self, port: u16) -> bool {
        self.listeners.iter().any(|listener| listener.port == Some(port))
    }

    pub fn media(&self, base: &Path) -> PathBuf {
        base.join(self.media_store_path.as_deref().unwrap_or(Path::new("media_store")))
    }

    /// The signing key, where it can be read. What a container has in /data lies beside its homeserver.yaml here.
    pub fn signing_key(&self, base: &Path) -> Option<String> {
        let path = self.signing_key_path.as_ref()?;
        let beside = base.join(path.file_name()?);
        fs::read(&base.join(path)).or_else(|_| fs::read(&beside)).ok()
    }
}

/// The journal of a move that has begun.
///
/// # Errors
/// It cannot be read.
pub fn journal(layout: &Layout) -> Result<Option<Journal>, String> {
    let path = layout.migration();
    match fs::read_own(&path) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| {
            format!("{}: {error}\n  remove it if the move that it is of is over", path.display())
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Keeps it; the commands in it are run by root, so that it is nobody else's.
///
/// # Errors
/// Of the file system.
pub fn keep(layout: &Layout, journal: &Journal) -> Result<(), String> {
    let text = serde_json::to_vec_pretty(journal).unwrap_or_default();
    fs::replace(&layout.migration(), &text, 0o600, None).map(drop).map_err(|error| error.to_string())
}

/// Runs a command that has to succeed.
///
/// # Errors
/// What it said last.
pub fn run(command: &Command) -> Result<(), String> {
    output(command).map(drop)
}

/// The same, and what it prints.
///
/// # Errors
/// What it said last.
#[expect(clippy::disallowed_methods, reason = "runs in a command that has no other children")]
pub fn output(command: &[String]) -> Result<String, String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(String::new()) };
    let shown = command.join(" ");
    let done = std::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{shown}: {error}"))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    Err(format!("{shown}: {}: {}", done.status, python::last_line(&done.stderr)))
}

/// What is answered at an address: status and body.
///
/// # Errors
/// Nobody answers.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    let text = ask().map_err(|error| format!("{address} does not answer: {error}"))?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    status.map(|status| (status, body.to_owned())).ok_or_else(|| format!("{address} speaks no HTTP"))
}

/// The user of a number, whether or not it has a name.
pub fn user(uid: u32, gid: u32) -> User {
    User { name: users::name_of(uid).unwrap_or_else(|| uid.to_string()), uid, gid }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn what_a_homeserver_yaml_says_of_data_is_found() {
        // Mutation: relative paths left as they are: seen red.
        let base = Path::new("/data");
        let postgres = settings(
            "server_name: a.b\ndatabase:\n  name: psycopg2\n  args: {user: synapse, dbname: s, cp_min: 5}\n\
             media_store_path: /m\nother: [1]\nlisteners: [{port: 8008}, {path: /s}]\n",
        );
        let (user, name) = (Some("synapse".to_owned()), Some("s".to_owned()));
        assert_eq!(postgres.store(base).unwrap(), Store::Postgres { user, name });
        assert_eq!(postgres.media(base), Path::new("/m"));
        assert_eq!([8008, 9000].map(|port| postgres.has_port(port)), [true, false]);
        let none = settings("server_name: a.b\n");
        assert_eq!(none.store(base).unwrap(), Store::Sqlite("/data/homeserver.db".into()));
        assert_eq!(none.media(base), Path::new("/data/media_store"));
        let sqlite = settings("server_name: a.b\ndatabase: {name: sqlite3, args: {database: x.db}}\n");
        assert_eq!(sqlite.store(base).unwrap(), Store::Sqlite("/data/x.db".into()));
        settings("server_name: a.b\ndatabase: {name: oracle}\n").store(base).unwrap_err();
    }

    #[test]
    fn the_key_of_a_container_is_found_beside_its_homeserver_yaml() {
        // Mutation: looked for where the container has it alone: seen red.
        let base = tempfile::tempdir().unwrap();
        fs::replace(&base.path().join("a.b.signing.key"), b"ed25519 a key", 0o600, None).unwrap();
        let of = |path: &str| settings(&format!("server_name: a.b\nsigning_key_path: {path}\n"));
        for path in ["a.b.signing.key", "/data/a.b.signing.key"] {
            assert_eq!(of(path).signing_key(base.path()).unwrap(), "ed25519 a key");
        }
        assert_eq!(of("/data/another.key").signing_key(base.path()), None);
    }
}
