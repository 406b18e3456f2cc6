//! `synvisor user`.

use std::ffi::OsString;
use std::path::Path;

use crate::admin;
use crate::admin::Admin;
use crate::admin::AdminError;
use crate::admin::Refusal;
use crate::admin::UserId;
use crate::admin::Which;

use super::Exit;
use super::administration::Trouble;
use super::administration::with_admin;
use super::ask;
use super::commands;
use super::output;

/// What can be done with users.
#[derive(Debug, clap::Subcommand)]
pub(super) enum UserVerb {
    /// Make a user. The password is asked for, unseen.
    Add {
        /// alice, or @alice:example.com.
        name: String,
        /// Make it a server administrator.
        #[arg(long)]
        admin: bool,
        #[command(flatten)]
        password: Given,
        /// What others see; without it the name.
        #[arg(long, value_name = "TEXT")]
        display_name: Option<String>,
    },
    /// Give a user another password, which ends its sessions.
    Password {
        /// alice, or @alice:example.com.
        name: String,
        /// Leave the user logged in where it is.
        #[arg(long)]
        keep_sessions: bool,
        #[command(flatten)]
        password: Given,
    },
    /// End a user's account for good: it leaves its rooms, and nobody gets its name again.
    Deactivate {
        /// alice, or @alice:example.com.
        name: String,
        /// Show what it has written to nobody who comes later, and forget its display name.
        #[arg(long)]
        erase: bool,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// List users; those that were deactivated only when asked for.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Only those that were deactivated.
        #[arg(long)]
        deactivated: bool,
        /// Only server administrators.
        #[arg(long)]
        admins: bool,
        /// Everybody, synvisor's own account included.
        #[arg(long, conflicts_with = "deactivated")]
        all: bool,
    },
}

/// How a password is given.
#[derive(Debug, clap::Args)]
pub(super) struct Given {
    /// Read the password from standard input.
    #[arg(long)]
    password_stdin: bool,
}

/// What to do where users are the Matrix Authentication Service's.
const ADD: &str = "mas-cli manage register-user";
const PASSWORD: &str = "mas-cli manage set-password";
const DEACTIVATE: &str = "mas-cli manage lock-user --deactivate";
const LIST: &str = "the admin API of the service: GET /api/admin/v1/users";

pub(super) fn run(path: &Path, credentials: Option<&OsString>, verb: UserVerb) -> Exit {
    match verb {
        UserVerb::Add { name, admin, password, display_name } => {
            with_admin(path, credentials, ADD, async |way| {
                let id = id(way, &name)?;
                let password = new_password(way, password.password_stdin).await?;
                let made = way.add_user(&id, &password, admin, display_name.as_deref()).await;
                let made = made.map_err(|error| refused(error, &id))?;
                let what = if admin { " as a server administrator" } else { "" };
                output::line(format!("{made} was added{what}"));
                Ok(Exit::Done)
            })
        }
        UserVerb::Password { name, keep_sessions, password } => {
            with_admin(path, credentials, PASSWORD, async |way| {
                let id = id(way, &name)?;
                if way.is_deactivated(&id).await.map_err(|error| refused(error, &id))? {
                    let why = format!(
                        "{id} was deactivated, and a new password would let nobody in: nothing was changed\n  \
                         make a user of another name: synvisor user add NAME"
                    );
                    return Err(Trouble::Said(output::fail(&why)));
                }
                let password = new_password(way, password.password_stdin).await?;
                let done = way.set_password(&id, &password, keep_sessions).await;
                done.map_err(|error| refused(error, &id))?;
                let sessions =
                    if keep_sessions { "goes on where it is logged in" } else { "is logged out everywhere" };
                output::line(format!("{id} has its new password, and {sessions}"));
                Ok(Exit::Done)
            })
        }
        UserVerb::Deactivate { name, erase, yes } => with_admin(path, credentials, DEACTIVATE, async |way| {
            let id = id(way, &name)?;
            if !yes {
                let erased = if erase { " and hides what it has written" } else { "" };
                ask::is_meant(&format!("This ends the account {id} for good{erased}. Do it?"), "--yes")?;
            }
            way.deactivate_user(&id, erase).await.map_err(|error| refused(error, &id))?;
            output::line(format!("{id} is deactivated"));
            Ok(Exit::Done)
        }),
        UserVerb::List { json, deactivated, admins, all } => {
            let which = Which { deactivated: (!all).then_some(deactivated), admins, own: all };
            with_admin(path, credentials, LIST, async |way| {
                let users = way.users(which).await?;
                if json {
                    return Ok(commands::print_json(&users));
                }
                output::raw(output::users(&users).as_bytes());
                Ok(Exit::Done)
            })
        }
    }
}

fn id(way: &Admin, name: &str) -> Result<UserId, Trouble> {
    UserId::parse(name, way.server_name()).map_err(|why| {
        output::problem(why);
        Trouble::Said(Exit::Usage)
    })
}

/// Asks for a password once it is known that something can be done with it.
async fn new_password(way: &Admin, from_stdin: bool) -> Result<String, Trouble> {
    way.may_register()?;
    let policy = way.password_policy().await?;
    let password = ask::password(from_stdin)?;
    if let Some(lacking) = admin::lacks(&policy, &password) {
        output::problem(format!(
            "this password is too weak, and nothing was changed: it must have {lacking}\n  \
             choose another one; the rules are [synapse] password_config.policy"
        ));
        return Err(Trouble::Said(Exit::Failed));
    }
    Ok(password)
}

/// What Synapse refuses of a user, in words.
fn refused(error: AdminError, id: &UserId) -> Trouble {
    let AdminError::Refused(refusal) = error else { return Trouble::Admin(error) };
    match in_words(&refusal, id) {
        Some(why) => Trouble::Said(output::fail(&why)),
        None => Trouble::Admin(AdminError::Refused(refusal)),
    }
}

fn in_words(refusal: &Refusal, id: &UserId) -> Option<String> {
    let Refusal { code, text, .. } = refusal;
    Some(match code.as_str() {
        "M_USER_IN_USE" => format!(
            "there is or was a user {id}, and nothing was changed\n  \
             choose another name, or give that one a new password, unless it was deactivated: synvisor user password {id}"
        ),
        "M_INVALID_USERNAME" => format!(
            "{id} cannot be a new user: {text}\n  choose a name of small letters, digits and the signs . _ = - / +"
        ),
        "M_EXCLUSIVE" => format!(
            "{id} is for an application service: {text}\n  choose a name that no registration of one claims"
        ),
        "M_NOT_FOUND" => format!("there is no user {id}\n  see who there is: synvisor user list"),
        "M_FORBIDDEN" if text == "Password change disabled" => format!(
            "{id} cannot have a password of Synapse's: [synapse] password_config turns them off\n  \
             change it where the user logs in"
        ),
        "M_WEAK_PASSWORD" => format!("this password is too weak: {text}\n  choose another one"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_synapse_refuses_is_said_with_a_remedy() {
        let id = UserId::parse("alice", "a.b").unwrap();
        let words = |code: &str, text: &str| {
            in_words(&Refusal { status: 400, code: code.to_owned(), text: text.to_owned() }, &id)
        };
        for code in ["M_USER_IN_USE", "M_INVALID_USERNAME", "M_EXCLUSIVE", "M_NOT_FOUND", "M_WEAK_PASSWORD"] {
            let said = words(code, "why").unwrap();
            assert_eq!(said.lines().count(), 2, "{said}");
        }
        assert!(words("M_FORBIDDEN", "Password change disabled").is_some());
        assert_eq!(words("M_FORBIDDEN", "HMAC incorrect"), None);
        assert_eq!(words("M_UNKNOWN", "why"), None);
    }
}
