//! Users and groups from /etc/passwd and /etc/group, and else from `getent`, which knows those of a directory service.
//!
//! Not through NSS ourselves: a static glibc crashes in it where libnss-systemd is installed.

use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use nix::unistd::Gid;
use nix::unistd::Uid;

use super::fs;
use super::process;

/// A user that a process can run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl User {
    pub const fn ids(&self) -> (Uid, Gid) {
        (Uid::from_raw(self.uid), Gid::from_raw(self.gid))
    }
}

/// Does something with the rights of a user and no others, so that no link of that user's leads root anywhere; with none,
/// with one's own. Nothing else may go on in this process meanwhile, and nothing may be started.
///
/// # Errors
/// What is done says why it failed, or that the kernel does not let us change.
pub fn as_user<T>(user: Option<&User>, act: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let Some(user) = user else { return act() };
    let ((uid, gid), own) = (user.ids(), (nix::unistd::geteuid(), nix::unistd::getegid()));
    let failed = |errno: nix::Error| format!("cannot act as {}: {errno}", user.name);
    let groups = nix::unistd::getgroups().map_err(failed)?;
    let theirs: Vec<Gid> = std::iter::once(gid).chain(groups_of(&user.name)).collect();
    let change = |uid, gid, groups: &[Gid]| {
        nix::unistd::setegid(gid)
            .and_then(|()| nix::unistd::setgroups(groups))
            .and_then(|()| nix::unistd::seteuid(uid))
    };
    let done = change(uid, gid, &theirs).map_err(failed).and_then(|()| act());
    // Only root may have groups.
    nix::unistd::seteuid(own.0).and_then(|()| change(own.0, own.1, &groups)).map_err(failed)?;
    done
}

/// The user of this name. Blocks for as long as a directory service may take, if it is not in /etc/passwd.
pub fn user(name: &str) -> Option<User> {
    let local = fs::read(Path::new("/etc/passwd")).ok();
    local.and_then(|text| parse_passwd(&text, name)).or_else(|| parse_passwd(&getent("passwd", name)?, name))
}

/// The number of the group of this name. Blocks for as long as a directory service may take, if it is not in /etc/group.
pub fn group(name: &str) -> Option<u32> {
    let local = fs::read(Path::new("/etc/group")).ok();
    local.and_then(|text| parse_group(&text, name)).or_else(|| parse_group(&getent("group", name)?, name))
}

/// The groups of /etc/group that have a user as a member.
fn groups_of(name: &str) -> Vec<Gid> {
    let text = fs::read(Path::new("/etc/group")).unwrap_or_default();
    parse_members(&text, name).into_iter().map(Gid::from_raw).collect()
}

/// A line of a database that NSS knows, where there is the program for it.
fn getent(database: &str, name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "a program that is waited for")]
    let mut command = Command::new("getent");
    process::incapable(&mut command);
    let done =
        command.args([database, "--", name]).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(done.stdout).ok()
}

/// The number of the user that this process runs as.
pub fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// The name of the user that this process runs as, or its number.
pub fn own_name() -> String {
    let uid = own_uid();
    name_of(uid).unwrap_or_else(|| uid.to_string())
}

/// The name of the user of this number in /etc/passwd.
pub fn name_of(uid: u32) -> Option<String> {
    let passwd = fs::read(Path::new("/etc/passwd")).ok()?;
    passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find_map(|fields| match fields[..] {
        [name, _, held, ..] if held.parse() == Ok(uid) => Some(name.to_owned()),
        _ => None,
    })
}

fn parse_members(text: &str, name: &str) -> Vec<u32> {
    let group = |line: &str| match line.split(':').collect::<Vec<_>>()[..] {
        [_, _, gid, members] if members.split(',').any(|member| member == name) => gid.parse().ok(),
        _ => None,
    };
    text.lines().filter_map(group).collect()
}

fn parse_passwd(text: &str, name: &str) -> Option<User> {
    text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find_map(|fields| match fields[..] {
        [held, _, uid, gid, ..] if held == name => {
            Some(User { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()? })
        }
        _ => None,
    })
}

fn parse_group(text: &str, name: &str) -> Option<u32> {
    text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find_map(|fields| match fields[..] {
        [held, _, gid, ..] if held == name => gid.parse().ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_lines_are_matched_by_their_whole_name() {
        let text = "root:x:0:0:root:/root:/bin/bash\nsynvisor-router:x:998:997::/:/bin/false\nsynvisor:x:999:996::/:/x\n";
        let expected = User { name: "synvisor".to_owned(), uid: 999, gid: 996 };
        assert_eq!(parse_passwd(text, "synvisor"), Some(expected));
        assert_eq!(parse_passwd(text, "syn"), None);
        assert_eq!(parse_passwd("broken\nbroken:x:y:z\n", "broken"), None);
    }

    #[test]
    fn a_user_is_in_the_groups_that_have_it_as_a_member() {
        // Mutation: a name that only begins so taken for a member: seen red.
        let text =
            "root:x:0:\nssl-cert:x:112:postgres,synvisor\nother:x:7:synvisor-router\nbroken:x:y:synvisor\n";
        assert_eq!(parse_members(text, "synvisor"), [112]);
    }

    #[test]
    fn getent_is_asked_by_name() {
        assert_eq!(parse_passwd(&getent("passwd", "root").unwrap(), "root").unwrap().uid, 0);
        assert_eq!(parse_group(&getent("group", "root").unwrap(), "root"), Some(0));
        assert_eq!(user("--version"), None);
        assert_eq!(group("no-such-group"), None);
    }
}
