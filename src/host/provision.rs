//! Makes role and database in a PostgreSQL of this machine, as its own administrator.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::process::Stdio;

use crate::config::ExternalDatabase;
use crate::sys::users;

/// The system user whom PostgreSQL on this machine takes for its administrator.
const ADMINISTRATOR: &str = "postgres";

/// What role and database are made with; Synapse wants encoding UTF8 and collation C
/// (`synapse/storage/engines/postgres.py`).
pub fn sql(database: &ExternalDatabase) -> [String; 2] {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let (role, name) = (quoted(&database.user), quoted(&database.name));
    // It is not ours to show.
    let password = if database.password.is_some() { " PASSWORD 'that of [database]'" } else { "" };
    [
        format!("CREATE ROLE {role} LOGIN{password};"),
        format!(
            "CREATE DATABASE {name} OWNER {role} ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0;"
        ),
    ]
}

/// Whether this process may act as the administrator of a PostgreSQL that is here.
pub fn may(database: &ExternalDatabase) -> bool {
    users::own_uid() == 0 && database.host.starts_with('/') && users::user(ADMINISTRATOR).is_some()
}

/// Makes role and database, unless they are there; returns what was made.
///
/// # Errors
/// What PostgreSQL said, or that a database is there that Synapse cannot use.
pub fn provision(database: &ExternalDatabase) -> Result<Vec<&'static str>, String> {
    let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let [role, create] = sql(database);
    let mut made = Vec::new();
    let user = literal(&database.user);
    if psql(database, &format!("SELECT 1 FROM pg_roles WHERE rolname = {user}"))?.is_empty() {
        psql(database, &role)?;
        made.push("role");
    }
    let held = psql(
        database,
        &format!(
            "SELECT pg_encoding_to_char(encoding), datcollate, datctype, pg_get_userbyid(datdba) FROM pg_database \
             WHERE datname = {}",
            literal(&database.name)
        ),
    )?;
    if held.is_empty() {
        psql(database, &create)?;
        made.push("database");
        return Ok(made);
    }
    let name = &database.name;
    let [encoding, collate, ctype, owner] = held.split('|').collect::<Vec<_>>()[..] else {
        return Err(format!("PostgreSQL says of the database {name}: {held}"));
    };
    // synapse/storage/engines/postgres.py refuses others.
    if (encoding, collate, ctype) != ("UTF8", "C", "C") {
        return Err(format!(
            "the database {name} has encoding {encoding}, collation {collate} and character type {ctype}, and Synapse takes \
             none but UTF8, C and C\n  \
             make another one with: {create}\n  and name it in [database]; \
             a database with data in it is dumped and restored into one"
        ));
    }
    if owner != database.user {
        return Err(format!(
            "the database {name} belongs to {owner}, and {} makes tables in it\n  \
             ALTER DATABASE \"{name}\" OWNER TO \"{}\"; or name its owner: [database] user",
            database.user, database.user
        ));
    }
    Ok(made)
}

/// Carries out a statement as PostgreSQL's administrator and gives what it says.
#[expect(clippy::disallowed_methods, reason = "runs in a command that has no other children")]
fn psql(database: &ExternalDatabase, statement: &str) -> Result<String, String> {
    let administrator =
        users::user(ADMINISTRATOR).ok_or_else(|| "there is no user postgres on this machine".to_owned())?;
    let mut command = Command::new("psql");
    command.args(["--no-psqlrc", "--no-password", "--tuples-only", "--no-align", "--quiet"]);
    command.args(["--set", "ON_ERROR_STOP=1", "--host", &database.host, "--port"]);
    command.arg(database.port.to_string()).args(["--dbname", "postgres", "--file", "-"]);
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LANG", "C.UTF-8").current_dir("/");
    command.uid(administrator.uid).gid(administrator.gid);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("psql cannot be run: {error}"))?;
    if let Some(mut input) = child.stdin.take() {
        // One that ends without having read it says why.
        let _ = input.write_all(statement.as_bytes());
    }
    let done = child.wait_with_output().map_err(|error| error.to_string())?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned());
    }
    Err(String::from_utf8_lossy(&done.stderr).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        let database = ExternalDatabase {
            host: "/var/run/postgresql".to_owned(),
            port: 5432,
            user: "a\"b".to_owned(),
            name: "c".to_owned(),
            password: None,
            sslmode: None,
        };
        let [role, create] = sql(&database);
        assert_eq!(role, "CREATE ROLE \"a\"\"b\" LOGIN;");
        assert!(create.starts_with("CREATE DATABASE \"c\" OWNER \"a\"\"b\" "), "{create}");
    }
}
