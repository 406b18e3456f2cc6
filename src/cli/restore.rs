//! `synvisor restore`: a homeserver from its backup, where there is nothing yet.

use std::path::Path;
use std::path::PathBuf;

use crate::config::Database;
use crate::config::secret::Secret;
use crate::host::archive::Archive;
use crate::host::archive::held_of;
use crate::host::builder::Builder;
use crate::host::builder::Means;
use crate::host::holding::Act;
use crate::host::holding::Reach;
use crate::host::postgres;
use crate::host::postgres::Client;
use crate::host::postgres::Embedded;
use crate::host::provision;
use crate::host::toml;
use crate::host::toml::Document;
use crate::host::toml::Loaded;
use crate::host::toml::Usable;
use crate::host::transfer;
use crate::host::transfer::Job;
use crate::host::venv;
use crate::moving::backup::Fate;
use crate::moving::backup::Manifest;
use crate::moving::backup::fate;
use crate::moving::media;
use crate::moving::media::Way;
use crate::sys::fs;
use crate::sys::users;

use super::Exit;
use super::commands;
use super::config;
use super::init;
use super::media::Place;
use super::output;
use super::output::fact;
use super::output::fail;
use super::progress::Progress;
use super::upgrade;

pub(super) fn restore(path: &Path, backup: &Path, means: &Means) -> Exit {
    match carry_out(path, backup, means) {
        Ok(()) => Exit::Done,
        Err(exit) => exit,
    }
}

fn carry_out(path: &Path, backup: &Path, means: &Means) -> Result<(), Exit> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let path = &std::path::absolute(path).map_err(|error| fail(&error.to_string()))?;
    let archive = Archive(std::path::absolute(backup).map_err(|error| fail(&error.to_string()))?);
    let manifest = archive.read().map_err(|why| fail(&why))?;
    let saved = fs::read(&archive.toml()).map_err(|error| fail(&error.to_string()))?;
    let text = chosen(path, &saved)?;
    let document = Document { name: path.display().to_string(), text: text.clone().unwrap_or(saved) };
    // The secrets that it names may be among what is to come.
    let loaded = toml::load_as(document.clone(), path, None).map_err(|unusable| config::refuse(&unusable))?;
    if loaded.parsed.config.server_name != manifest.server_name {
        return Err(fail(&format!(
            "{} is for {}, and the backup for {}: nothing was changed\n  move that file aside, or name another one: --config FILE",
            path.display(),
            loaded.parsed.config.server_name,
            manifest.server_name
        )));
    }
    if commands::is_running_in(&loaded.parsed.config.supervisor.run_dir)? {
        return Err(fail("the homeserver runs, and has data of its own\n  restore where there is none"));
    }
    let files = missing(&loaded, &archive, &manifest)?;
    if text.is_none() {
        init::write_new(path, &document.text)?;
        fact("configuration", &path.display().to_string());
    } else {
        fact("configuration", &format!("{} (it is there)", path.display()));
    }
    let config = &loaded.parsed.config;
    let place = Place::of(path, config)?;
    let user = place.users.synapse.as_ref();
    for (file, bytes) in &files {
        file.parent().map_or(Ok(()), fs::make_directory).map_err(|error| fail(&error.to_string()))?;
        fs::replace(file, bytes, 0o600, user).map_err(|error| fail(&error.to_string()))?;
        fact("file", &file.display().to_string());
    }
    secrets(&place, &archive)?;
    let usable = toml::usable_as(document, path, None).map_err(|unusable| config::refuse(&unusable))?;
    if let Some(recipe) = &config.python.recipe {
        let builder = Builder::new(config, user, means).map_err(|why| fail(&why))?;
        upgrade::make(&builder, recipe, &config.supervisor.state_dir)?;
    }
    database(&place, &usable, &archive, &manifest)?;
    media(&place, &archive, &manifest)?;
    output::line(format!(
        "\n{} can be started:\n  systemctl enable --now synvisor    # or synvisor supervise --config {}",
        config.server_name,
        path.display()
    ));
    Ok(())
}

/// The text that is there, unless nobody has written it.
fn chosen(path: &Path, saved: &str) -> Result<Option<String>, Exit> {
    match fs::read(path) {
        Ok(text) if text == init::TEMPLATE && text != saved => {
            // As the package brings it.
            config::rewrite(path, saved)?;
            Ok(Some(saved.to_owned()))
        }
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fail(&error.to_string())),
    }
}

/// Files that the configuration names, and that are in the backup and not here.
fn missing(loaded: &Loaded, archive: &Archive, manifest: &Manifest) -> Result<Vec<(PathBuf, Vec<u8>)>, Exit> {
    let named = loaded.named_files();
    let mut missing = Vec::new();
    for (number, name) in manifest.files.iter().enumerate() {
        let file = PathBuf::from(name);
        // What the configuration does not name is none of its business, whatever the backup says.
        if !named.contains(&file) || file.exists() {
            continue;
        }
        let place = archive.file(number);
        let bytes =
            std::fs::read(&place).map_err(|error| fail(&fs::at("read", &place)(error).to_string()))?;
        missing.push((file, bytes));
    }
    Ok(missing)
}

fn secrets(place: &Place<'_>, archive: &Archive) -> Result<(), Exit> {
    let user = place.users.synapse.as_ref();
    let own = Secret::ALL.iter().filter(|secret| !place.config.secrets.files.contains_key(secret));
    let mut kept = Vec::new();
    for secret in own {
        let saved =
            fs::read(&archive.secret(secret.file_name())).map_err(|error| fail(&error.to_string()))?;
        let path = secret.path(&place.layout.state);
        let held = fs::read_itself(&path).ok();
        match fate(held.as_deref().map(str::as_bytes), saved.as_bytes()) {
            Fate::Write => kept.push((path, saved)),
            Fate::Same => {}
            Fate::Other => {
                return Err(fail(&format!(
                    "{} is another one than the backup's, and is not overwritten\n  if it is nobody's, move it aside",
                    path.display()
                )));
            }
        }
    }
    place.make()?;
    let write = || {
        kept.iter().try_for_each(|(path, text)| {
            fs::replace(path, text.as_bytes(), 0o600, None).map(drop).map_err(|error| error.to_string())
        })
    };
    users::as_user(user, write).map_err(|why| fail(&why))?;
    fact("secrets", &place.layout.secrets().display().to_string());
    Ok(())
}

fn database(place: &Place<'_>, usable: &Usable, archive: &Archive, manifest: &Manifest) -> Result<(), Exit> {
    let (config, user) = (place.config, place.users.synapse.as_ref());
    let note = place.layout.restore_note();
    if fs::read_itself(&note).is_ok_and(|done| done == manifest.id) {
        fact("database", "it is there");
        return Ok(());
    }
    let venv = venv::inspect(config, user).map_err(|why| fail(&why))?;
    let _embedded = match &config.database {
        Database::Embedded => {
            place.layout.make_for_services(&place.users).map_err(|error| fail(&error.to_string()))?;
            Some(Embedded::start(config, &place.layout, &venv, user).map_err(|why| fail(&why))?)
        }
        Database::External(_) => None,
    };
    let reach = Reach::of(config, &usable.secrets, user);
    if let Database::External(external) = &config.database
        && reach.look(Act::Look).is_err()
        && provision::may(external)
    {
        provision::provision(external).map_err(|why| fail(&why))?;
    }
    let mut holding = reach.look(Act::Look).map_err(|why| match &config.database {
        Database::External(external) => {
            let statements = provision::sql(external).join("\n    ");
            fail(&format!("{why}\n  where they do not exist, as its administrator:\n    {statements}"))
        }
        Database::Embedded => fail(&why),
    })?;
    if holding.unfinished {
        holding = reach.look(Act::Clear).map_err(|why| fail(&why))?;
    }
    if !holding.is_empty() {
        return Err(fail(&format!(
            "{} is not empty, and is not overwritten\n  name another one in [database]",
            reach.shown()
        )));
    }
    holding.suits().map_err(|why| fail(&format!("{}: {why}", reach.shown())))?;
    let programs =
        postgres::programs(holding.server.max(manifest.postgres), &venv).map_err(|why| fail(&why))?;
    reach.look(Act::Begin).map_err(|why| fail(&why))?;
    let mut progress = Progress::start("database".to_owned());
    let client = Client { programs, connection: &reach.connection, user };
    let restored = client.restore(&archive.database(), &mut |line| progress.say(line));
    let seconds = progress.end();
    restored.map_err(|why| {
        let whose = user.map_or_else(users::own_name, |user| user.name.clone());
        fail(&format!(
            "the database could not be restored:\n{why}\n  mend that, then the same again; pg_restore runs as {whose}, who must \
             be able to read {}",
            archive.0.display()
        ))
    })?;
    reach.look(Act::End).map_err(|why| fail(&why))?;
    let write = || fs::replace(&note, manifest.id.as_bytes(), 0o600, None).map_err(|error| error.to_string());
    users::as_user(user, write).map_err(|why| fail(&why))?;
    fact("database", &format!("schema {} ({seconds} s)", manifest.schema));
    Ok(())
}

fn media(place: &Place<'_>, archive: &Archive, manifest: &Manifest) -> Result<(), Exit> {
    let user = place.users.synapse.as_ref();
    let store = place.layout.media();
    if manifest.media.included {
        let folders = media::folders();
        let mut progress = Progress::start("media".to_owned());
        let copied = users::as_user(user, || {
            let source = archive.media();
            let job = Job::new(&source, &store, &folders, &[Way::Reflink, Way::Copy]);
            transfer::carry_out(&job, &mut |done| progress.measure(done, None))
        });
        progress.end();
        let copied = copied.map_err(|why| fail(&why))?;
        copied.skipped.iter().for_each(|skipped| output::problem(format!("skipped: {skipped}")));
    }
    let counted =
        users::as_user(user, || held_of(&archive.media_list(), &store)).map_err(|why| fail(&why))?;
    let (held, all) = counted;
    fact("media", &format!("{held} of {all} files are in {}", store.display()));
    if held < all {
        output::problem(format!(
            "{} files of the list are missing\n  bring them back from where you keep them: synvisor import media DIR --finish",
            all - held
        ));
    }
    Ok(())
}
