//! `synvisor import`: the configuration of another installation, read and written anew. Nothing of it is changed.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use crate::config::Config;
use crate::config::problem;
use crate::import;
use crate::import::Files;
use crate::import::Imported;
use crate::import::SECRETS;
use crate::import::source::Place;
use crate::import::source::Source;
use crate::sys::fs;
use crate::sys::users;
use crate::sys::users::User;

use super::Exit;
use super::config;
use super::init;
use super::output;
use super::output::fail;

const TOML: &str = "synvisor.toml";
const REPORT: &str = "REPORT.md";

/// Directories below one that is named whose files belong to it.
const BELOW: [&str; 5] = ["conf.d", "workers", "workers.d", "host_vars", "group_vars"];

/// What `import` is given.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArguments {
    /// A homeserver.yaml, files of workers, a directory of them (/etc/matrix-synapse, a volume of Docker); vars.yml and the
    /// inventory of matrix-docker-ansible-deploy; an env file, a compose file, or what `docker inspect` prints.
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<PathBuf>,
    /// Where to write synvisor.toml, REPORT.md and the directory secrets.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// The homeserver's signing key, if it is not where the sources say.
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
    /// Where a directory of the container lies on this machine: /data=/srv/synapse.
    #[arg(long, value_name = "INSIDE=OUTSIDE", value_parser = mount)]
    mount: Vec<(String, String)>,
}

fn mount(text: &str) -> Result<(String, String), String> {
    let pair =
        text.split_once('=').filter(|(inside, outside)| inside.starts_with('/') && outside.starts_with('/'));
    let (inside, outside) = pair.ok_or("write two absolute paths, like /data=/srv/synapse")?;
    Ok((inside.trim_end_matches('/').to_owned(), outside.trim_end_matches('/').to_owned()))
}

pub(super) fn import(arguments: &ImportArguments) -> Exit {
    match carry_out(arguments) {
        Ok(()) => Exit::Done,
        Err(exit) => exit,
    }
}

fn carry_out(arguments: &ImportArguments) -> Result<(), Exit> {
    let output = absolute(&arguments.output)?;
    let mut sources = Vec::new();
    for source in &arguments.sources {
        collect(&absolute(source)?, &mut sources)?;
    }
    let signing_key = arguments.signing_key.as_deref().map(signing_key).transpose()?;
    let found = import::read(&sources, &arguments.mount).map_err(|why| {
        output::problems(&why);
        Exit::Config
    })?;
    let files: Files = found
        .wanted()
        .into_iter()
        .map(|path| {
            let read = fs::read(Path::new(&path)).map_err(|error| error.to_string());
            (path, read)
        })
        .collect();
    let imported = found.translate(&files, signing_key.as_deref());
    check(&output, &imported)?;
    write(&output, &imported)?;
    let toml = output.join(TOML);
    output::line(imported.report.print(&toml.display().to_string()).trim_end());
    output::line(format!(
        "\n{}, {REPORT} and {} secrets are written; what was there before is as it was\n  synvisor check --config {}",
        toml.display(),
        imported.secrets.len(),
        toml.display()
    ));
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf, Exit> {
    std::path::absolute(path).map_err(|error| fail(&format!("{}: {error}", path.display())))
}

fn unreadable(error: &fs::FsError) -> Exit {
    let kind = error.kind();
    if kind == std::io::ErrorKind::PermissionDenied {
        output::problem(format!("{error}\n  use root, or whoever may read it"));
        return Exit::NotPermitted;
    }
    let remedy = if kind == std::io::ErrorKind::InvalidData {
        "it is no text in UTF-8: name the files of the configuration"
    } else {
        "name a file or a directory that is there"
    };
    fail(&format!("{error}\n  {remedy}"))
}

/// Reads a file, or those of a directory that belong to a configuration.
fn collect(path: &Path, sources: &mut Vec<Source>) -> Result<(), Exit> {
    if !path.is_dir() {
        return take(path, Place::Named, sources);
    }
    let before = sources.len();
    of_directory(path, sources)?;
    if sources.len() == before {
        return Err(fail(&format!(
            "there is no configuration in {}\n  it has neither .yaml nor .yml files: name the files themselves",
            path.display()
        )));
    }
    Ok(())
}

fn of_directory(path: &Path, sources: &mut Vec<Source>) -> Result<(), Exit> {
    let mut entries = fs::list(path).map_err(|error| unreadable(&error))?;
    entries.sort();
    let main = path.join("homeserver.yaml");
    let whole = main.is_file();
    if whole {
        take(&main, Place::Part, sources)?;
    }
    let is_hosts = path.join("host_vars").is_dir();
    for entry in &entries {
        let name = entry.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if entry.is_dir() {
            let of_host = path.ends_with("host_vars") || path.ends_with("group_vars");
            if BELOW.contains(&name) || of_host {
                of_directory(entry, sources)?;
            }
            continue;
        }
        let yaml = entry.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if *entry != main && (yaml || name == ".env" || is_hosts && name == "hosts") {
            take(entry, if whole { Place::Beside } else { Place::Part }, sources)?;
        }
    }
    Ok(())
}

fn take(path: &Path, place: Place, sources: &mut Vec<Source>) -> Result<(), Exit> {
    let text = fs::read(path).map_err(|error| unreadable(&error))?;
    let path = path.display().to_string();
    if !sources.iter().any(|source| source.path == path) {
        sources.push(Source { path, text, place });
    }
    Ok(())
}

/// Reads a signing key, and sees that it is one.
fn signing_key(path: &Path) -> Result<String, Exit> {
    let text = fs::read(path).map_err(|error| unreadable(&error))?;
    let is_key = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() == 3 && fields[0] == "ed25519"
    };
    if text.trim().is_empty() || !text.trim().lines().all(is_key) {
        return Err(fail(&format!(
            "{} is no signing key of Synapse\n  one is a line like: ed25519 a_abcd …; it lies where signing_key_path of \
             homeserver.yaml says",
            path.display()
        )));
    }
    Ok(text)
}

/// Nothing is written that `check` would refuse.
fn check(output: &Path, imported: &Imported) -> Result<(), Exit> {
    match Config::parse(&imported.toml, output) {
        Ok(_) => Ok(()),
        Err(problems) => {
            let name = output.join(TOML);
            output::problem(
                "what the sources say makes no configuration that synvisor could run, and nothing was written:",
            );
            output::problems(&problem::print_all(&problems, &name.display().to_string(), &imported.toml));
            Err(Exit::Config)
        }
    }
}

fn write(output: &Path, imported: &Imported) -> Result<(), Exit> {
    let toml = output.join(TOML);
    let report = imported.report.print(&toml.display().to_string());
    let secrets = output.join(SECRETS);
    let files: Vec<(PathBuf, &str)> =
        imported.secrets.iter().map(|(name, secret)| (secrets.join(name), secret.as_str())).collect();
    let taken: BTreeSet<PathBuf> = files
        .iter()
        .map(|(path, _)| path.clone())
        .chain([toml.clone(), output.join(REPORT)])
        .filter(|path| path.symlink_metadata().is_ok())
        .collect();
    if !taken.is_empty() {
        let listed: Vec<String> = taken.iter().map(|path| path.display().to_string()).collect();
        return Err(fail(&format!(
            "{} is there already, and nothing is overwritten\n  name another directory with --output, or move it away",
            listed.join(", ")
        )));
    }
    let service = users::user("synvisor").filter(|_| users::own_uid() == 0);
    // The directory is root's, so that nobody can put a link in the way of what root writes there.
    let keeper = service.as_ref().map(|user| User { name: "root".to_owned(), uid: 0, gid: user.gid });
    let made = fs::make_directory(output).and_then(|()| match files.is_empty() {
        true => Ok(()),
        false => fs::directory(&secrets, if keeper.is_some() { 0o750 } else { 0o700 }, keeper.as_ref()),
    });
    made.map_err(|error| config::not_writable(&error))?;
    for (path, secret) in &files {
        fs::replace(path, secret.as_bytes(), 0o600, service.as_ref())
            .map_err(|error| config::not_writable(&error))?;
    }
    init::write_new(&output.join(REPORT), &report)?;
    init::write_new(&toml, &imported.toml)
}
