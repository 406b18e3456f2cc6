//! `synvisor backup`: what a homeserver cannot be made again without, saved while it serves.

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;

use crate::config::secret::Secret;
use crate::host::archive::Archive;
use crate::host::archive::list_media;
use crate::host::holding::Act;
use crate::host::holding::Reach;
use crate::host::postgres;
use crate::host::postgres::Client;
use crate::host::toml;
use crate::host::toml::Usable;
use crate::host::transfer;
use crate::host::transfer::Job;
use crate::host::venv;
use crate::moving::backup::FORMAT;
use crate::moving::backup::Manifest;
use crate::moving::backup::Media;
use crate::moving::media;
use crate::moving::media::Way;
use crate::moving::pace;
use crate::sys::clock;
use crate::sys::fs;
use crate::sys::users;

use super::Exit;
use super::config;
use super::media::Place;
use super::output;
use super::output::fact;
use super::output::fail;
use super::progress::Progress;

#[derive(Debug, clap::Args)]
pub(super) struct BackupArguments {
    /// A directory that is not there yet, or empty; it becomes that of synvisor's user, and closed to others.
    directory: PathBuf,
    /// The media themselves, and not a list of them alone.
    #[arg(long)]
    media: bool,
    /// With this, what other servers have is left out.
    #[arg(long)]
    skip_remote: bool,
    /// Write down the SHA-256 of each of the media.
    #[arg(long)]
    checksums: bool,
}

pub(super) fn backup(path: &Path, credentials: Option<&OsString>, arguments: &BackupArguments) -> Exit {
    let usable = match toml::usable(path, credentials) {
        Ok(usable) => usable,
        Err(unusable) => return config::refuse(&unusable),
    };
    match carry_out(path, &usable, arguments) {
        Ok(()) => Exit::Done,
        Err(exit) => exit,
    }
}

fn carry_out(path: &Path, usable: &Usable, arguments: &BackupArguments) -> Result<(), Exit> {
    let config = &usable.parsed.config;
    let place = Place::of(path, config)?;
    let user = place.users.synapse.as_ref();
    let held = venv::inspect(config, user).map_err(|why| fail(&why))?;
    let reach = Reach::of(config, &usable.secrets, user);
    let holding = reach.look(Act::Look).map_err(|why| fail(&format!("{why}\n  is it running?")))?;
    let Some(schema) = holding.schema.filter(|_| !holding.unfinished) else {
        return Err(fail(&format!("{} holds no homeserver\n  there is nothing to save", reach.shown())));
    };
    let programs = postgres::programs(holding.server, &held).map_err(|why| fail(&why))?;
    let directory = std::path::absolute(&arguments.directory).map_err(|error| fail(&error.to_string()))?;
    // Those above it are root's, and synvisor's user has to get through, whatever root's umask.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    directory.parent().map_or(Ok(()), fs::make_directory).map_err(|error| fail(&error.to_string()))?;
    // What is made from here on is nobody else's.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    if !directory.exists() {
        fs::directory(&directory, 0o700, user).map_err(|error| fail(&error.to_string()))?;
    }
    let archive = Archive(directory);
    users::as_user(user, || archive.make()).map_err(|why| fail(&why))?;
    let files = keep(&place, usable, &archive)?;
    fact("configuration", &format!("with its secrets and {} files that it names", files.len()));

    // Before the media: whatever it speaks of is there then.
    let mut progress = Progress::start("database".to_owned());
    let client = Client { programs, connection: &reach.connection, user };
    let dumped = client.dump(&archive.database(), &mut |line| progress.say(line));
    let seconds = progress.end();
    dumped.map_err(|why| fail(&format!("the database could not be dumped:\n{why}")))?;
    fact("database", &format!("schema {schema}, PostgreSQL {} ({seconds} s)", holding.server));
    let saved = media(&place, &archive, arguments)?;
    let manifest = Manifest {
        format: FORMAT,
        id: id().map_err(|error| fail(&error.to_string()))?,
        made: clock::wall(),
        server_name: config.server_name.clone(),
        synvisor: env!("CARGO_PKG_VERSION").to_owned(),
        synapse: held.synapse,
        schema,
        postgres: holding.server,
        files,
        media: saved,
    };
    users::as_user(user, || archive.complete(&manifest)).map_err(|why| fail(&why))?;
    output::line(format!(
        "\n{} is complete. It holds every secret of the homeserver: keep it where nobody else may read it.",
        archive.0.display()
    ));
    Ok(())
}

/// Keeps the configuration, the secrets and the files that it names; returns the names of these.
fn keep(place: &Place<'_>, usable: &Usable, archive: &Archive) -> Result<Vec<String>, Exit> {
    let (config, user) = (place.config, place.users.synapse.as_ref());
    let mut secrets = Vec::new();
    for secret in Secret::ALL {
        let text = match config.secrets.files.get(&secret) {
            Some(source) => usable.secrets.get(source).to_owned(),
            None => fs::read_itself(&secret.path(&place.layout.state)).map_err(|error| {
                fail(&format!("{error}\n  synvisor init makes what is missing, where it is not to be kept"))
            })?,
        };
        secrets.push((secret, text));
    }
    let named: Vec<PathBuf> = usable.named_files().into_iter().filter(|path| path.is_file()).collect();
    let mut files = Vec::new();
    for path in &named {
        let text = std::fs::read(path).map_err(|error| fail(&fs::at("read", path)(error).to_string()))?;
        files.push(text);
    }
    let write = || -> Result<(), String> {
        archive.keep(&archive.toml(), usable.text.as_bytes())?;
        for (secret, text) in &secrets {
            archive.keep(&archive.secret(secret.file_name()), text.as_bytes())?;
        }
        for (number, bytes) in files.iter().enumerate() {
            archive.keep(&archive.file(number), bytes)?;
        }
        Ok(())
    };
    users::as_user(user, write).map_err(|why| fail(&why))?;
    Ok(named.iter().map(|path| path.display().to_string()).collect())
}

fn media(place: &Place<'_>, archive: &Archive, arguments: &BackupArguments) -> Result<Media, Exit> {
    let user = place.users.synapse.as_ref();
    let store = place.layout.media();
    let remote: &[&str] = if arguments.skip_remote { &[] } else { &media::REMOTE };
    let folders: Vec<&str> = media::OWN.iter().chain(remote).copied().collect();
    let mut progress = Progress::start("media".to_owned());
    let listed = users::as_user(user, || {
        list_media(&store, &folders, &archive.media_list(), arguments.checksums, &mut |done| {
            progress.measure(done, None);
        })
    });
    progress.end();
    let listed = listed.map_err(|why| fail(&why))?;
    fact("media", &format!("{} files, {}, listed", listed.files, pace::size(listed.bytes)));
    if arguments.media {
        let mut progress = Progress::start("media".to_owned());
        let copied = users::as_user(user, || {
            fs::directory(&archive.media(), 0o700, None).map_err(|error| error.to_string())?;
            let destination = archive.media();
            // A link would share what goes wrong with the file.
            let job = Job::new(&store, &destination, &folders, &[Way::Reflink, Way::Copy]);
            transfer::carry_out(&job, &mut |done| progress.measure(done, Some(listed)))
        });
        let seconds = progress.end();
        let copied = copied.map_err(|why| fail(&why))?;
        copied.skipped.iter().for_each(|skipped| output::problem(format!("skipped: {skipped}")));
        if !copied.skipped.is_empty() {
            return Err(fail(
                "not all media could be saved: the backup is not complete\n  mend what stands above",
            ));
        }
        fact("", &format!("{} files saved ({seconds} s)", copied.amount.files));
    }
    Ok(Media { files: listed.files, bytes: listed.bytes, included: arguments.media })
}

fn id() -> std::io::Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
