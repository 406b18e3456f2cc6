//! What administrators do with users.

use std::collections::BTreeMap;

use hyper::Method;
use serde::Deserialize;
use serde::Serialize;
use serde_json::json;

use super::Admin;
use super::AdminError;
use super::account;
use super::names::UserId;
use super::names::escaped;
use super::registration;
use super::registration::Newcomer;

/// Users of one answer, which is what Synapse gives unasked.
const PAGE: usize = 100;

/// A user as Synapse lists it (1.163: `UserPaginateResponse` in `synapse/storage/databases/main/__init__.py`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// `@alice:example.com`.
    pub name: String,
    pub displayname: Option<String>,
    pub admin: bool,
    pub deactivated: bool,
    /// Whether what it had written is to be shown to nobody new.
    pub erased: bool,
    pub locked: bool,
    pub is_guest: bool,
    pub user_type: Option<String>,
    /// Milliseconds since 1970-01-01 UTC.
    pub creation_ts: Option<u64>,
}

/// Which users to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Which {
    /// None for both.
    pub deactivated: Option<bool>,
    pub admins: bool,
    /// synvisor's own accounts too.
    pub own: bool,
}

impl Which {
    fn query(self, from: usize) -> String {
        let mut query = format!("/_synapse/admin/v3/users?limit={PAGE}&from={from}&locked=true");
        if let Some(deactivated) = self.deactivated {
            query.push_str(&format!("&deactivated={deactivated}"));
        }
        if self.admins {
            query.push_str("&admins=true");
        }
        query
    }
}

#[derive(Deserialize)]
struct Page {
    users: Vec<Account>,
    next_token: Option<String>,
}

impl Admin {
    /// Makes a user who has no session yet, and gives its id.
    ///
    /// # Errors
    /// As for every request.
    pub async fn add_user(
        &self,
        id: &UserId,
        password: &str,
        admin: bool,
        display_name: Option<&str>,
    ) -> Result<String, AdminError> {
        let localpart = id.localpart();
        let newcomer = Newcomer { localpart, password, admin, kind: None, display_name, device: None };
        let answer = registration::register(&self.main, &self.shared_secret()?, &newcomer).await?;
        // Synapse may have made letters small.
        Ok(answer["user_id"].as_str().map_or_else(|| id.to_string(), str::to_owned))
    }

    /// Whether a user's account was ended: Synapse gives it a new password all the same (1.163:
    /// `synapse/handlers/set_password.py`), and lets nobody in by it (`synapse/rest/client/login.py`).
    ///
    /// # Errors
    /// As for every request.
    pub async fn is_deactivated(&self, id: &UserId) -> Result<bool, AdminError> {
        let path = format!("/_synapse/admin/v2/users/{}", escaped(&id.to_string()));
        let user = self.call(&Method::GET, &path, None).await?;
        Ok(user["deactivated"].as_bool() == Some(true))
    }

    /// Gives a user another password, and ends its sessions unless they are to be kept.
    ///
    /// # Errors
    /// As for every request.
    pub async fn set_password(
        &self,
        id: &UserId,
        password: &str,
        keep_sessions: bool,
    ) -> Result<(), AdminError> {
        let path = format!("/_synapse/admin/v1/reset_password/{}", escaped(&id.to_string()));
        let body = json!({ "new_password": password, "logout_devices": !keep_sessions });
        self.call(&Method::POST, &path, Some(&body)).await.map(|_| ())
    }

    /// Ends a user's account for good.
    ///
    /// # Errors
    /// As for every request.
    pub async fn deactivate_user(&self, id: &UserId, erase: bool) -> Result<(), AdminError> {
        let path = format!("/_synapse/admin/v1/deactivate/{}", escaped(&id.to_string()));
        self.call(&Method::POST, &path, Some(&json!({ "erase": erase }))).await.map(|_| ())
    }

    /// All users, by name.
    ///
    /// # Errors
    /// As for every request.
    pub async fn users(&self, which: Which) -> Result<Vec<Account>, AdminError> {
        // Pages go by numbers: who comes or goes meanwhile moves the others.
        let mut found = BTreeMap::new();
        let mut from = 0;
        loop {
            let answer = self.call(&Method::GET, &which.query(from), None).await?;
            let page: Page = serde_json::from_value(answer).map_err(|error| {
                AdminError::Failed(format!("this list of users is not understood: {error}"))
            })?;
            let next = page.next_token.and_then(|next| next.parse().ok());
            found.extend(page.users.into_iter().map(|user| (user.name.clone(), user)));
            match next.filter(|next| *next > from) {
                Some(next) => from = next,
                None => break,
            }
        }
        let own = |user: &Account| account::is_own(&user.name, user.admin, user.user_type.as_deref());
        Ok(found.into_values().filter(|user| which.own || !own(user)).collect())
    }
}
