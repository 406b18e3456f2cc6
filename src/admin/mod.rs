//! Synapse's admin API, by the socket that main has for the router: root and synvisor's own user may enter its directory,
//! and no address has to be open for it.

use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::config::Config;
use crate::host::layout;
use crate::host::layout::Layout;
use crate::host::secrets;
use crate::sys::fs;
use crate::sys::fs::FsError;
use crate::sys::users;
use crate::sys::users::User;
use crate::topology::Topology;
use crate::topology::UnitName;

mod account;
mod connection;
mod names;
mod policy;
mod registration;
mod registration_tokens;
mod user;

pub use names::UserId;
pub use policy::lacks;
pub use registration_tokens::RegistrationToken;
pub use user::Account;
pub use user::Which;

use connection::Main;

/// Why something was not done.
#[derive(Debug)]
pub enum AdminError {
    /// Whoever asks is neither root nor synvisor's own user.
    NotPermitted(String),
    /// Nobody answers on this socket of the supervisor's.
    NotRunning(PathBuf),
    /// Main does not take requests; why, and what to do.
    Away(String),
    /// Synapse said no.
    Refused(Refusal),
    /// It is not known whether it was done.
    Broken(String),
    Failed(String),
}

impl From<FsError> for AdminError {
    fn from(error: FsError) -> Self {
        if error.kind() == io::ErrorKind::PermissionDenied {
            Self::NotPermitted(error.to_string())
        } else {
            Self::Failed(error.to_string())
        }
    }
}

/// What Synapse says when it refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Refusal {
    /// Of HTTP.
    #[serde(skip)]
    pub status: u16,
    /// `M_FORBIDDEN` and the like.
    #[serde(rename = "errcode", default)]
    pub code: String,
    #[serde(rename = "error", default)]
    pub text: String,
}

impl Refusal {
    /// Whether it was the token that was refused, or whom it belongs to (1.163: `synapse/rest/admin/_base.py`).
    fn is_of_the_token(&self) -> bool {
        self.status == 401 || self.status == 403 && self.text == "You are not a server admin"
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, code, text } = self;
        match code.as_str() {
            "" => write!(f, "{text} (HTTP {status})"),
            _ => write!(f, "{text} ({code})"),
        }
    }
}

/// The way to the admin API of one homeserver.
#[derive(Debug)]
pub struct Admin {
    main: Main,
    config: Config,
    /// Where systemd's credentials are.
    credentials: PathBuf,
    layout: Layout,
}

impl Admin {
    /// Nothing is read and nobody asked yet. `credentials` is the directory of systemd's credentials.
    ///
    /// # Errors
    /// Main has no socket for clients, which no configuration leads to.
    pub fn of(config: Config, credentials: &Path) -> Result<Self, AdminError> {
        let topology = Topology::of(&config);
        let socket = topology.unit(&UnitName::main()).and_then(|main| main.client_socket.clone());
        let socket = socket.ok_or_else(|| AdminError::Failed("main serves no clients".to_owned()))?;
        let layout = Layout::of(&config);
        let main = Main::new(socket, layout::control_socket(&layout.run));
        Ok(Self { main, config, credentials: credentials.to_owned(), layout })
    }

    pub fn server_name(&self) -> &str {
        &self.config.server_name
    }

    /// Whether anybody who registers is asked for a token.
    pub fn registration_requires_token(&self) -> bool {
        let on =
            |setting: &str| self.config.synapse.get(setting).and_then(toml::Value::as_bool) == Some(true);
        on("enable_registration") && on("registration_requires_token")
    }

    /// Looks whether we are one of those who may, before anybody is asked for anything.
    ///
    /// # Errors
    /// We are not.
    pub fn may_register(&self) -> Result<(), AdminError> {
        match self.shared_secret() {
            Err(error @ AdminError::NotPermitted(_)) => Err(error),
            // Perhaps nothing was ever started, which the next request says better.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// What Synapse asks of a new password; `{}` where it asks nothing.
    ///
    /// # Errors
    /// As for every request.
    pub async fn password_policy(&self) -> Result<Value, AdminError> {
        self.main.ask(&Method::GET, "/_matrix/client/v3/password_policy", None, None).await
    }

    /// Whose the files are to be that root writes: whoever has the directory of secrets. None for our own.
    fn owner(&self) -> Option<User> {
        let (uid, _) = fs::owner_and_mode(&self.layout.secrets()).ok()?;
        users::name_of(uid).filter(|_| uid != users::own_uid()).and_then(|name| users::user(&name))
    }

    /// What proves to Synapse that we may register anybody.
    fn shared_secret(&self) -> Result<String, AdminError> {
        let secret = secrets::registration_shared_secret(&self.config, &self.credentials);
        secret.map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                return AdminError::Failed(format!(
                    "{error}\n  unless [secrets] names it, it is made when the service starts: systemctl restart synvisor"
                ));
            }
            error.into()
        })
    }
}
