//! What systemd says of the service that we are part of.

use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use crate::doctor::DropIn;
use crate::sys::fs;
use crate::sys::process;

/// The unit as it is shipped.
pub const UNIT: &str = include_str!("../../systemd/synvisor.service");

/// Where systemd looks for what changes the unit (systemd.unit(5)).
const DROP_INS: [&str; 3] = [
    "/etc/systemd/system/synvisor.service.d",
    "/run/systemd/system/synvisor.service.d",
    "/usr/local/lib/systemd/system/synvisor.service.d",
];

/// What changes the unit on this machine.
pub fn drop_ins() -> Vec<DropIn> {
    let files = DROP_INS.iter().flat_map(|directory| fs::list(Path::new(directory)).unwrap_or_default());
    let configs = files.filter(|path| path.extension().is_some_and(|extension| extension == "conf"));
    configs.filter_map(|path| Some(DropIn { text: fs::read(&path).ok()?, path })).collect()
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
