//! Tokens without which nobody registers where `registration_requires_token` is set.

use hyper::Method;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;
use sha2::Digest;
use sha2::Sha256;

use crate::sys::clock;

use super::Admin;
use super::AdminError;
use super::names::escaped;

const PATH: &str = "/_synapse/admin/v1/registration_tokens";

/// A token as Synapse lists it (1.163: `synapse/rest/admin/registration_tokens.py`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationToken {
    pub token: String,
    /// None for any number.
    pub uses_allowed: Option<u64>,
    /// Registrations that have begun with it.
    pub pending: u64,
    pub completed: u64,
    /// Milliseconds since 1970-01-01 UTC.
    pub expiry_time: Option<u64>,
}

impl RegistrationToken {
    /// What it is called where it must not be shown.
    pub fn name(&self) -> String {
        Sha256::digest(self.token.as_bytes()).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Admin {
    /// Makes a token, a random one if none is given, for so many registrations and milliseconds. None if there is such a
    /// one already.
    ///
    /// # Errors
    /// As for every request.
    pub async fn add_registration_token(
        &self,
        token: Option<&str>,
        uses: Option<u64>,
        life: Option<u64>,
    ) -> Result<Option<RegistrationToken>, AdminError> {
        // Synapse would write it to its log.
        if let Some(token) = token
            && self.registration_tokens().await?.iter().any(|known| known.token == token)
        {
            return Ok(None);
        }
        // It expires at an hour of the day, wherever clocks are set to.
        let expiry = life.map(|life| clock::wall() * 1_000 + life);
        let mut body = json!({ "uses_allowed": uses, "expiry_time": expiry });
        if let Some(token) = token {
            body["token"] = token.into();
        }
        let answer = self.call(&Method::POST, &format!("{PATH}/new"), Some(&body)).await?;
        read(answer).map(Some)
    }

    /// All that there are, those that are of no use any more included.
    ///
    /// # Errors
    /// As for every request.
    pub async fn registration_tokens(&self) -> Result<Vec<RegistrationToken>, AdminError> {
        let mut answer = self.call(&Method::GET, PATH, None).await?;
        read(answer["registration_tokens"].take())
    }

    /// # Errors
    /// As for every request.
    pub async fn delete_registration_token(&self, token: &RegistrationToken) -> Result<(), AdminError> {
        // Synapse logs its path, and with it what is a secret no more.
        let path = format!("{PATH}/{}", escaped(&token.token));
        self.call(&Method::DELETE, &path, None).await.map(|_| ())
    }
}

fn read<T: serde::de::DeserializeOwned>(answer: Value) -> Result<T, AdminError> {
    serde_json::from_value(answer).map_err(|_| {
        AdminError::Failed("what Synapse says of registration tokens is not understood".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_token_does_not_say_what_it_is() {
        let token = RegistrationToken {
            token: "abc".to_owned(),
            uses_allowed: None,
            pending: 0,
            completed: 0,
            expiry_time: None,
        };
        // From FIPS 180: the digest of "abc".
        assert_eq!(token.name(), "ba7816bf");
    }
}
