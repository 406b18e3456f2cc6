//! What the old server consists of, for systemd or Docker, and that it stays away while this one serves.

use crate::moving::steps::Container;
use crate::moving::steps::Old;
use crate::moving::units;
use crate::sys::fs;

use super::old::output;
use super::old::run;
use super::systemd;

/// An old server of which one unit or some are known.
///
/// # Errors
/// There is no such unit, or no systemd.
pub fn units(named: &[String]) -> Result<Old, String> {
    let full: Vec<String> = named.iter().map(|name| units::full_name(name)).collect();
    let property = format!("--property={}", units::properties());
    // A pattern finds what is loaded, which with --all does not have to run, and a name what is not.
    let asked = ["systemctl", "show", "--all", &property, "*.service", "*.target"].map(str::to_owned);
    let shown = output(&[asked.as_slice(), &full].concat())?;
    units::family(&shown, named).map(Old::Units)
}

/// An old server of these containers.
///
/// # Errors
/// There is no such container, or no Docker; or somebody else makes it, and would make it anew.
pub fn containers(named: &[String]) -> Result<Old, String> {
    named.iter().map(|name| container(name)).collect::<Result<_, _>>().map(Old::Containers)
}

fn container(name: &str) -> Result<Container, String> {
    let unit = units::full_name(name);
    if systemd::is_active(&unit) == Some(true) {
        return Err(format!(
            "systemd runs the container {name}, and would start it again\n  --old-unit {unit}"
        ));
    }
    const FORMAT: &str = "{{.HostConfig.AutoRemove}} {{.HostConfig.RestartPolicy.MaximumRetryCount}} {{.HostConfig.RestartPolicy.Name}}";
    let said = output(&["docker", "container", "inspect", "--format", FORMAT, name].map(str::to_owned))?;
    let mut words = said.split_whitespace();
    let (removed, retries) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if removed == "true" {
        return Err(format!(
            "the container {name} is removed when it stops (docker run --rm), so that it could not be started again\n  \
             say what makes it: --old-unit, or --old-stop and --old-start"
        ));
    }
    let restart = match words.next() {
        Some("on-failure") if retries != "0" => format!("on-failure:{retries}"),
        Some(policy) => policy.to_owned(),
        None => "no".to_owned(),
    };
    Ok(Container { name: name.to_owned(), restart })
}

/// Keeps it from coming back by itself.
///
/// # Errors
/// Of the file system, or what a command said.
pub fn retire(old: &Old) -> Result<(), String> {
    for (path, text) in old.drop_ins() {
        path.parent().map_or(Ok(()), fs::make_directory).map_err(|error| error.to_string())?;
        fs::replace(&path, text.as_bytes(), 0o644, None).map_err(|error| error.to_string())?;
    }
    old.retire().iter().try_for_each(run)
}

/// Lets it come back, whether or not all of [`retire`] was done.
///
/// # Errors
/// Likewise, of each that cannot be let.
pub fn release(old: &Old) -> Result<(), String> {
    for (path, _) in old.drop_ins() {
        fs::remove(&path).map_err(|error| error.to_string())?;
        // The administrator may have others in it.
        path.parent().into_iter().for_each(fs::remove_empty);
    }
    let failed: Vec<String> = old.release().iter().filter_map(|command| run(command).err()).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}
