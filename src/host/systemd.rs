//! What systemd says of the service that we are part of.

use std::ffi::OsStr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use crate::doctor::DropIn;
use crate::sys::fs;
use crate::sys::process;

/// The unit as it is shipped.
pub const UNIT: &str = include_str!("../../systemd/synvisor.service");

/// Where systemd looks first for what is the administrator's (systemd.unit(5)), and where packages put theirs.
const OWN: [&str; 3] = ["/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system"];
const PACKAGED: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];

/// The unit that this machine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Installed {
    Packaged,
    /// The administrator's, in its place.
    Own(DropIn),
}

impl Installed {
    /// What holds: a packaged one is that which we bring.
    pub fn text(&self) -> &str {
        match self {
            Self::Packaged => UNIT,
            Self::Own(unit) => &unit.text,
        }
    }
}

/// The unit, if it is installed and not masked.
pub fn installed() -> Option<Installed> {
    installed_below(Path::new("/"))
}

fn installed_below(root: &Path) -> Option<Installed> {
    let unit = |directory: &&str| {
        // Joined with an absolute path the root would be lost.
        let path = root.join(directory.trim_start_matches('/')).join("synvisor.service");
        Some(DropIn { text: fs::read(&path).ok()?, path })
    };
    match OWN.iter().find_map(unit) {
        // A link to /dev/null.
        Some(own) if own.text.is_empty() => None,
        Some(own) => Some(Installed::Own(own)),
        None => PACKAGED.iter().find_map(unit).map(|_| Installed::Packaged),
    }
}

/// What changes the unit on this machine, in the order in which it counts: by name.
pub fn drop_ins() -> Vec<DropIn> {
    let directories = OWN.iter().map(|directory| Path::new(directory).join("synvisor.service.d"));
    let mut files: Vec<PathBuf> =
        directories.flat_map(|directory| fs::list(&directory).unwrap_or_default()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    files.sort_by_key(|path| path.file_name().map(OsStr::to_owned));
    files.into_iter().filter_map(|path| Some(DropIn { text: fs::read(&path).ok()?, path })).collect()
}

/// The unit in whose control group this process is.
pub fn own_unit() -> Option<String> {
    let text = fs::read(Path::new("/proc/self/cgroup")).ok()?;
    unit_of(&text)
}

fn unit_of(cgroups: &str) -> Option<String> {
    // The second version of control groups is the hierarchy 0.
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    path.rsplit('/').find(|part| part.ends_with(".service")).map(str::to_owned)
}

/// Whether a unit runs, or will in a moment; none where systemd cannot be asked.
#[expect(clippy::disallowed_methods, reason = "a program that is waited for")]
pub fn is_active(unit: &str) -> Option<bool> {
    let mut command = Command::new("systemctl");
    command.args(["show", "--property=ActiveState", "--value", unit]).stdin(Stdio::null());
    process::incapable(&mut command);
    let output = command.output().ok().filter(|output| output.status.success())?;
    match String::from_utf8_lossy(&output.stdout).trim() {
        "inactive" | "failed" => Some(false),
        "" => None,
        _ => Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_administrators_unit_is_in_the_place_of_the_packaged_one() {
        // Mutation: a masked one taken for a unit: seen red.
        let root = tempfile::tempdir().unwrap();
        let write = |directory: &str, text: &str| {
            let directory = root.path().join(directory.trim_start_matches('/'));
            fs::make_directory(&directory).unwrap();
            fs::replace(&directory.join("synvisor.service"), text.as_bytes(), 0o644, None).unwrap();
        };
        assert_eq!(installed_below(root.path()), None);
        write(PACKAGED[0], "older");
        assert_eq!(installed_below(root.path()).unwrap().text(), UNIT);
        write(OWN[0], "mine");
        assert_eq!(installed_below(root.path()).unwrap().text(), "mine");
        write(OWN[0], "");
        assert_eq!(installed_below(root.path()), None);
    }

    #[test]
    fn the_unit_is_the_innermost_service() {
        // Mutation: the outermost: seen red.
        let unit = |text: &str| unit_of(text);
        assert_eq!(unit("0::/system.slice/synvisor.service\n"), Some("synvisor.service".to_owned()));
        let nested =
            "1:name=systemd:/a.service\n0::/payload/system.slice/a.service/synvisor.service/.control\n";
        assert_eq!(unit(nested), Some("synvisor.service".to_owned()));
        assert_eq!(unit("0::/user.slice\n"), None);
    }
}
