//! Whether a password is as the homeserver's policy wants it: the admin API takes any, so that nobody else looks.

use serde_json::Value;

/// Signs of the longest password, and of the longest that Synapse takes (1.163: `synapse/rest/admin/users.py`).
const LONGEST: usize = 512;

/// What a password lacks; `policy` is as `/password_policy` says it (1.163: `synapse/handlers/password_policy.py`).
pub fn lacks(policy: &Value, password: &str) -> Option<String> {
    let has = |wanted: fn(&char) -> bool| password.chars().any(|sign| wanted(&sign));
    let rules = [
        ("m.require_digit", "a digit", has(char::is_ascii_digit)),
        (
            "m.require_symbol",
            "a sign that is neither letter nor digit",
            has(|sign| !sign.is_ascii_alphanumeric()),
        ),
        ("m.require_uppercase", "a capital letter", has(char::is_ascii_uppercase)),
        ("m.require_lowercase", "a small letter", has(char::is_ascii_lowercase)),
    ];
    let length = password.chars().count();
    if password.is_empty() {
        return Some("something in it".to_owned());
    }
    if length > LONGEST {
        return Some(format!("at most {LONGEST} signs"));
    }
    if let Some(least) = policy["m.minimum_length"].as_u64().filter(|least| (length as u64) < *least) {
        return Some(format!("{least} signs"));
    }
    let broken = |(rule, _, kept): &(&str, &str, bool)| !kept && policy[*rule] == true;
    rules.into_iter().find(broken).map(|(_, wanted, _)| wanted.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_password_is_held_against_the_policy() {
        // Mutation: rules the other way round: seen red.
        let strict = json!({
            "m.minimum_length": 6, "m.require_digit": true, "m.require_symbol": true,
            "m.require_lowercase": true, "m.require_uppercase": true,
        });
        for (password, lacking) in [
            ("", Some("something")),
            ("aB3!", Some("6 signs")),
            ("aBcde!", Some("a digit")),
            ("aBcde3", Some("neither letter nor digit")),
            ("abcd3!", Some("a capital")),
            ("ABCD3!", Some("a small")),
            ("aBcd3ß", None),
        ] {
            let found = lacks(&strict, password);
            assert_eq!(found.is_some(), lacking.is_some(), "{password}: {found:?}");
            assert!(found.unwrap_or_default().contains(lacking.unwrap_or_default()), "{password}");
        }
        assert_eq!(lacks(&json!({}), "a"), None);
        assert!(lacks(&json!({}), "").is_some());
        assert_eq!(lacks(&json!({ "m.require_digit": false }), "a"), None);
        assert!(lacks(&json!({}), &"ä".repeat(513)).is_some());
    }
}
