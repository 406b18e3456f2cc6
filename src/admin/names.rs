//! Names of users, as people write them.

use std::fmt;

/// A user of this homeserver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserId {
    localpart: String,
    server_name: String,
}

impl UserId {
    /// Reads `alice` or `@alice:example.com`. Which localparts there can be is for Synapse to say: old ones have other signs
    /// than new ones may.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub fn parse(text: &str, server_name: &str) -> Result<Self, String> {
        let example = format!("  write it like alice or @alice:{server_name}");
        let localpart = match text.strip_prefix('@') {
            Some(id) => {
                let (localpart, server) = id.split_once(':').unwrap_or((id, server_name));
                if server != server_name {
                    return Err(format!(
                        "{text} is a user of {server}, and this is {server_name}\n  \
                         ask there, or name somebody of {server_name}"
                    ));
                }
                localpart
            }
            None => text,
        };
        let strange = |sign: char| sign == ':' || sign.is_whitespace() || sign.is_control();
        if localpart.is_empty() || localpart.contains(strange) {
            return Err(format!("{:?} is not the name of a user\n{example}", text));
        }
        Ok(Self { localpart: localpart.to_owned(), server_name: server_name.to_owned() })
    }

    pub(super) fn localpart(&self) -> &str {
        &self.localpart
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}:{}", self.localpart, self.server_name)
    }
}

/// One part of a path, with everything encoded that could be taken for something else (RFC 3986, section 2.3).
pub(super) fn escaped(part: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encode = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    part.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_this_homeserver() {
        // Mutation: the server not compared: seen red.
        let parse = |text: &str| UserId::parse(text, "example.com:8448").map(|id| id.to_string());
        for text in ["alice", "@alice:example.com:8448", "@alice"] {
            assert_eq!(parse(text), Ok("@alice:example.com:8448".to_owned()), "{text}");
        }
        assert_eq!(parse("Old=2f/x"), Ok("@Old=2f/x:example.com:8448".to_owned()));
        let why = parse("@alice:example.org").unwrap_err();
        assert!(why.contains("a user of example.org") && why.contains("\n  "), "{why}");
        assert!(parse("@alice:example.com").is_err(), "the port is part of the name");
        for text in ["", "@", "@:example.com:8448", "alice:example.com:8448", "al ice", "al\nice"] {
            let why = parse(text).unwrap_err();
            assert!(why.contains("write it like alice or @alice:example.com:8448"), "{why}");
            assert_eq!(why.lines().count(), 2, "{why}");
        }
    }

    #[test]
    fn a_name_is_one_part_of_a_path() {
        // Mutation: the slash left as it is: seen red.
        assert_eq!(escaped("@a/b?c:d.e"), "%40a%2Fb%3Fc%3Ad.e");
        assert_eq!(escaped("ü"), "%C3%BC");
    }
}
