//! A media store beside the state directory.

use std::path::Path;

use crate::doctor;
use crate::sys::fs;
use crate::sys::users;
use crate::sys::users::User;

use super::layout::Layout;
use super::systemd;

/// What lets the service write elsewhere too.
const DROP_IN: &str = "/etc/systemd/system/synvisor.service.d/media-store.conf";

/// Where the unit shows the service nothing (`ProtectHome=`).
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

/// Has the media store lie in another directory, and the service allowed to write there; says what was done.
///
/// # Errors
/// There are media already, or the directory cannot be made.
pub fn place(layout: &Layout, directory: &Path, user: Option<&User>) -> Result<String, String> {
    let shown = directory.display();
    if !directory.is_absolute() {
        return Err(format!(
            "{shown} is no absolute path\n  write where the media shall lie: --media /srv/media"
        ));
    }
    is_seen(layout, directory)?;
    let link = layout.media();
    match fs::link_target(&link) {
        Some(target) if target == directory => {}
        Some(target) => {
            return Err(format!(
                "the media lie in {} already\n  leave --media out, or move them and the link {} yourself",
                target.display(),
                link.display()
            ));
        }
        None => {
            if fs::list(&link).is_ok_and(|entries| !entries.is_empty()) {
                return Err(format!("there are media in {} already\n  leave --media out", link.display()));
            }
            let owner = user.map_or_else(users::own_uid, |user| user.uid);
            let others = |path: &Path| fs::owner_and_mode(path).is_ok_and(|(uid, _)| uid != owner);
            if others(directory) && fs::list(directory).is_ok_and(|entries| !entries.is_empty()) {
                return Err(format!(
                    "{shown} belongs to somebody else and is not empty, and a media store is closed to others\n  \
                     name a directory of its own in it: --media {shown}/media"
                ));
            }
            fs::directory(directory, 0o700, user).map_err(|error| error.to_string())?;
            users::as_user(user, || fs::link(&link, directory).map_err(|error| error.to_string()))?;
        }
    }
    Ok(match admit(layout, directory)? {
        None => format!("{shown}"),
        Some(how) => format!("{shown} ({how})"),
    })
}

/// That the service can see a directory at all.
///
/// # Errors
/// Its unit hides it.
pub fn is_seen(layout: &Layout, directory: &Path) -> Result<(), String> {
    let shown = directory.display();
    if is_of_service(layout) && HOMES.iter().any(|home| directory.starts_with(home)) {
        return Err(format!(
            "the service sees nothing of {shown}: its unit has ProtectHome=yes\n  \
             choose a place like /srv/media, or write ProtectHome=no into a drop-in (systemctl edit synvisor)"
        ));
    }
    Ok(())
}

fn is_of_service(layout: &Layout) -> bool {
    layout.state == Path::new("/var/lib/synvisor")
}

/// Has the service allowed to write to a directory; says how, where it was not.
///
/// # Errors
/// Of the file system.
pub fn admit(layout: &Layout, directory: &Path) -> Result<Option<String>, String> {
    if !is_of_service(layout)
        || directory.starts_with(&layout.state)
        || doctor::is_open(directory, systemd::UNIT, &systemd::drop_ins())
    {
        return Ok(None);
    }
    let text =
        format!("# Written by synvisor: the media store.\n[Service]\nReadWritePaths={}\n", quoted(directory));
    let path = Path::new(DROP_IN);
    path.parent().map_or(Ok(()), fs::make_directory).map_err(|error| error.to_string())?;
    fs::replace(path, text.as_bytes(), 0o644, None).map_err(|error| error.to_string())?;
    Ok(Some(format!(
        "the service may write there by {DROP_IN}: systemctl daemon-reload, and where it runs, systemctl restart synvisor"
    )))
}

/// A path as systemd reads it, with % and spaces in it.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("\"{text}\"")
}
