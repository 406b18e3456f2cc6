//! Registration by the secret that synvisor and Synapse share (1.163: `UserRegisterServlet` in
//! `synapse/rest/admin/users.py`).

use hmac::Hmac;
use hmac::KeyInit;
use hmac::Mac;
use hyper::Method;
use serde_json::Value;
use serde_json::json;
use sha1::Sha1;

use super::AdminError;
use super::connection::Main;

const PATH: &str = "/_synapse/admin/v1/register";

/// A nonce is known only to the process that gave it, which may be gone by now.
const NONCES: u32 = 5;

/// Somebody who is to be a user.
#[derive(Clone, Copy)]
pub(super) struct Newcomer<'n> {
    pub(super) localpart: &'n str,
    pub(super) password: &'n str,
    pub(super) admin: bool,
    /// Synapse's `user_type`.
    pub(super) kind: Option<&'static str>,
    pub(super) display_name: Option<&'n str>,
    /// The device to log in; none where nobody logs in yet.
    pub(super) device: Option<&'static str>,
}

/// Makes a user, and gives what Synapse says of it.
pub(super) async fn register(main: &Main, secret: &str, who: &Newcomer<'_>) -> Result<Value, AdminError> {
    let mut left = NONCES;
    loop {
        let answer = main.ask(&Method::GET, PATH, None, None).await?;
        let nonce = answer["nonce"].as_str().unwrap_or_default();
        left -= 1;
        match main.ask(&Method::POST, PATH, None, Some(&body(secret, nonce, who))).await {
            Err(AdminError::Refused(refusal)) if refusal.text == "unrecognised nonce" && left > 0 => {}
            answer => return answer,
        }
    }
}

fn body(secret: &str, nonce: &str, who: &Newcomer<'_>) -> Value {
    let Newcomer { localpart, password, admin, kind, display_name, device } = *who;
    let word = if admin { "admin" } else { "notadmin" };
    let parts: Vec<&str> = [nonce, localpart, password, word].into_iter().chain(kind).collect();
    let mut body = json!({
        "nonce": nonce, "username": localpart, "password": password, "admin": admin,
        "mac": mac(secret, &parts.join("\0")),
    });
    // Null is no display name to Synapse, and so the localpart.
    body["displayname"] = display_name.into();
    if let Some(kind) = kind {
        body["user_type"] = kind.into();
    }
    match device {
        Some(device) => {
            body["device_id"] = device.into();
            body["initial_device_display_name"] = "synvisor".into();
        }
        None => body["inhibit_login"] = true.into(),
    }
    body
}

/// HMAC-SHA1 of a text, in hexadecimal digits.
pub(super) fn mac(secret: &str, text: &str) -> String {
    // A key of any length is one.
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mac_is_that_of_rfc_2202() {
        // Mutation: the text changed before it is signed: seen red.
        assert_eq!(mac("Jefe", "what do ya want for nothing?"), "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
        assert_eq!(
            mac(&"k".repeat(100), "longer than a block"),
            // Python: hmac.new(b"k" * 100, b"longer than a block", "sha1").hexdigest()
            "a07387cdd27caa1db187db3563910ee0de5b5076"
        );
    }

    #[test]
    fn what_is_signed_is_what_is_asked_for() {
        // Mutation: a space between the parts: seen red.
        let who = Newcomer {
            localpart: "alice",
            password: "pass",
            admin: true,
            kind: None,
            display_name: None,
            device: None,
        };
        let asked = body("secret", "nonce", &who);
        assert_eq!(asked["mac"], mac("secret", "nonce\0alice\0pass\0admin"));
        assert_eq!((&asked["inhibit_login"], &asked["device_id"]), (&Value::Bool(true), &Value::Null));
        let ours = Newcomer { admin: false, kind: Some("support"), device: Some("D"), ..who };
        let asked = body("secret", "nonce", &ours);
        assert_eq!(asked["mac"], mac("secret", "nonce\0alice\0pass\0notadmin\0support"));
        assert_eq!((&asked["inhibit_login"], &asked["device_id"]), (&Value::Null, &Value::from("D")));
    }
}
