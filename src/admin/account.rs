//! synvisor's own account, an administrator whose access token asks for what the shared secret does not give.
//!
//! Its password is made from the shared secret, who has which can make administrators anyhow: so there is nothing more to
//! keep, and a token that ran out (`session_lifetime`) or was deleted is replaced by a login, not by another account.

use std::io;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;
use serde_json::json;

use crate::sys::fs;
use crate::sys::lock;
use crate::sys::lock::Kind;
use crate::sys::lock::Lock;
use crate::sys::lock::LockError;

use super::Admin;
use super::AdminError;
use super::names::UserId;
use super::names::escaped;
use super::registration;
use super::registration::Newcomer;

/// What the account is called; where that one cannot be had, the next has a number.
const LOCALPART: &str = "synvisor-admin";

/// So many names are tried.
const MOST: u32 = 50;

/// Its kind: not in the user directory, not counted as a user (1.163: `is_support_user` in
/// `synapse/storage/databases/main/registration.py`).
const KIND: &str = "support";

/// What its session is called.
const DEVICE: &str = "SYNVISOR";

/// What its password is made of beside the shared secret. What is signed for a registration has zero bytes, this has none.
const PASSWORD: &str = "the password of synvisor's own account";

/// How often, and with which pause, one looks whether another synvisor has made the account: for a minute.
const ATTEMPTS: u32 = 600;
const PAUSE: Duration = Duration::from_millis(100);

/// Whether an account is synvisor's own. A name alone does not say so: it may have been somebody's before us.
pub(super) fn is_own(id: &str, admin: bool, kind: Option<&str>) -> bool {
    let localpart = id.trim_start_matches('@').split(':').next().unwrap_or_default();
    let number = localpart.strip_prefix(LOCALPART).map(|rest| rest.strip_prefix('-').unwrap_or(rest));
    let named = number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    named && admin && kind == Some(KIND)
}

impl Admin {
    /// Asks as a server administrator.
    ///
    /// # Errors
    /// As for every request; and when there is no way to an administrator's token.
    pub(super) async fn call(
        &self,
        method: &Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<Value, AdminError> {
        let token = match self.kept()? {
            Some(token) => token,
            None => self.renew(None).await?,
        };
        match self.main.ask(method, target, Some(&token), body).await {
            Err(AdminError::Refused(refusal)) if refusal.is_of_the_token() => {
                let token = self.renew(Some(&token)).await?;
                self.main.ask(method, target, Some(&token), body).await
            }
            answer => answer,
        }
    }

    /// The token of an earlier time; what cannot be one is none.
    fn kept(&self) -> Result<Option<String>, AdminError> {
        let text = match fs::read_itself(&self.layout.admin_token()) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let token = text.trim();
        let possible = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        Ok((!token.is_empty() && token.bytes().all(possible)).then(|| token.to_owned()))
    }

    /// Gets a token that is not the one that was refused, and keeps it.
    async fn renew(&self, refused: Option<&str>) -> Result<String, AdminError> {
        // Where nothing runs there may be no secret either, and that is the better explanation.
        self.password_policy().await?;
        let secret = self.shared_secret()?;
        let _alone = self.alone().await?;
        if let Some(token) = self.kept()?.filter(|token| Some(token.as_str()) != refused) {
            return Ok(token);
        }
        let password = registration::mac(&secret, PASSWORD);
        for number in 1..=MOST {
            let name = if number == 1 { LOCALPART.to_owned() } else { format!("{LOCALPART}-{number}") };
            if let Some(token) = self.token_of(&name, &secret, &password).await? {
                fs::replace(&self.layout.admin_token(), token.as_bytes(), 0o600, self.owner().as_ref())?;
                return Ok(token);
            }
        }
        Err(AdminError::Failed(format!(
            "there are {MOST} accounts like @{LOCALPART}-{MOST}:{}, and none is an administrator with which synvisor can \
             log in\n  make one of them an administrator again, and write its access token to {}",
            self.config.server_name,
            self.layout.admin_token().display()
        )))
    }

    /// Lets one synvisor at a time log in: the second login would end the first.
    async fn alone(&self) -> Result<Option<Lock>, AdminError> {
        for _ in 0..ATTEMPTS {
            match lock::take(&self.layout.admin_lock(), Kind::Exclusive, true, self.owner().as_ref()) {
                Ok(lock) => return Ok(lock),
                Err(LockError::Held(_)) => tokio::time::sleep(PAUSE).await,
                Err(LockError::Fs(error)) => return Err(error.into()),
            }
        }
        Err(AdminError::Failed("another synvisor has been logging in for a minute\n  try again".to_owned()))
    }

    /// A token of the account of this name, which is made if there is none; none if it is another one's, or no
    /// administrator any more.
    async fn token_of(&self, name: &str, secret: &str, password: &str) -> Result<Option<String>, AdminError> {
        let newcomer = Newcomer {
            localpart: name,
            password,
            admin: true,
            kind: Some(KIND),
            display_name: None,
            device: Some(DEVICE),
        };
        match registration::register(&self.main, secret, &newcomer).await {
            Ok(answer) => {
                let token = answer["access_token"].as_str().map(str::to_owned);
                if let Some(token) = &token {
                    self.leave_rooms(token).await;
                }
                return Ok(token);
            }
            Err(AdminError::Refused(refusal)) if refusal.code == "M_USER_IN_USE" => {}
            Err(error) => return Err(error),
        }
        let login = json!({
            "type": "m.login.password", "password": password, "device_id": DEVICE,
            "identifier": { "type": "m.id.user", "user": name },
        });
        let answer = self.main.ask(&Method::POST, "/_matrix/client/v3/login", None, Some(&login)).await;
        let token = match or_none(answer)? {
            Some(answer) => answer["access_token"].as_str().map(str::to_owned),
            None => None,
        };
        let Some(token) = token else { return Ok(None) };
        // As if it had a new password, which is the old one: that ends whatever sessions it had, of which somebody else may
        // have the tokens; and only an administrator is let do it.
        let id = UserId::parse(name, &self.config.server_name).map_err(AdminError::Failed)?;
        let path = format!("/_synapse/admin/v1/reset_password/{}", escaped(&id.to_string()));
        let body = json!({ "new_password": password, "logout_devices": true });
        Ok(or_none(self.main.ask(&Method::POST, &path, Some(&token), Some(&body)).await)?.map(|_| token))
    }

    /// Synapse has every new account join `auto_join_rooms`, where nobody knows this one.
    async fn leave_rooms(&self, token: &str) {
        let path = "/_matrix/client/v3/joined_rooms";
        let Ok(answer) = self.main.ask(&Method::GET, path, Some(token), None).await else { return };
        for room in answer["joined_rooms"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let path = format!("/_matrix/client/v3/rooms/{}/leave", escaped(room));
            // It may be kept there, by the terms of use for one, and does no harm.
            let _ = self.main.ask(&Method::POST, &path, Some(token), Some(&json!({}))).await;
        }
    }
}

/// What a login gives, or none where this account does not let us in (1.163: `synapse/rest/client/login.py` says 400 where
/// there are no passwords, 401 of who is locked, 403 of others).
fn or_none(answer: Result<Value, AdminError>) -> Result<Option<Value>, AdminError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(AdminError::Refused(refusal)) if [400, 401, 403].contains(&refusal.status) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_elses_account_of_our_name_is_not_ours() {
        // Mutation: who is no administrator taken for ours: seen red.
        for id in ["@synvisor-admin:a.b", "@synvisor-admin-2:a.b:80", "@synvisor-admin-17:a.b"] {
            assert!(is_own(id, true, Some(KIND)), "{id}");
            assert!(!is_own(id, false, Some(KIND)), "{id}");
            assert!(!is_own(id, true, None), "{id}");
        }
        for id in ["@alice:a.b", "@synvisor-admin-x:a.b", "@synvisor-administrator:a.b", "@b:synvisor-admin"]
        {
            assert!(!is_own(id, true, Some(KIND)), "{id}");
        }
    }
}
