//! `synvisor register-token`.

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;

use crate::admin::Admin;
use crate::admin::RegistrationToken;
use crate::sys::fs;

use super::Exit;
use super::administration::Trouble;
use super::administration::with_admin;
use super::ask;
use super::commands;
use super::output;

/// What can be done with registration tokens.
#[derive(Debug, clap::Subcommand)]
pub(super) enum TokenVerb {
    /// Make a token. A random one is printed, since nobody knows it yet.
    Add {
        /// For how many registrations; without it, any number.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
        uses: Option<u64>,
        /// For how long: 90m, 12h, 7d, 2w; without it, for good.
        #[arg(long, value_name = "TIME", value_parser = life)]
        expires: Option<u64>,
        /// A file that holds the token, "-" for standard input, or "random".
        #[arg(long, value_name = "FILE", default_value = "random")]
        token_file: PathBuf,
    },
    /// List tokens by their names, which give nobody an account.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Show the tokens themselves too.
        #[arg(long)]
        show_tokens: bool,
    },
    /// Delete a token: nobody registers with it any more.
    Delete {
        /// Its name, as `list` shows it.
        #[arg(required_unless_present = "token_file", conflicts_with = "token_file")]
        name: Option<String>,
        /// A file that holds the token, or "-" for standard input.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
}

/// What to do where registration is the Matrix Authentication Service's.
const INSTEAD: &str = "mas-cli manage issue-user-registration-token";

/// Longest life of a token: ten years, in milliseconds.
const LONGEST: u64 = 3_660 * 86_400_000;

pub(super) fn run(path: &Path, credentials: Option<&OsString>, verb: TokenVerb) -> Exit {
    with_admin(path, credentials, INSTEAD, async |way| match verb {
        TokenVerb::Add { uses, expires, token_file } => add(way, uses, expires, &token_file).await,
        TokenVerb::List { json, show_tokens } => {
            let tokens = way.registration_tokens().await?;
            if json {
                let shown: Vec<_> = tokens.iter().map(|token| as_json(token, show_tokens)).collect();
                return Ok(commands::print_json(&shown));
            }
            output::raw(output::registration_tokens(&tokens, show_tokens).as_bytes());
            Ok(Exit::Done)
        }
        TokenVerb::Delete { name, token_file } => {
            let secret = token_file.as_deref().map(read).transpose()?;
            let asked = |token: &&RegistrationToken| match &secret {
                Some(secret) => token.token == *secret,
                None => Some(token.name()) == name,
            };
            let tokens = way.registration_tokens().await?;
            let Some(token) = tokens.iter().find(asked) else {
                let which = name.unwrap_or_else(|| "of that file".to_owned());
                output::problem(format!(
                    "there is no registration token {which}\n  see which there are: synvisor register-token list"
                ));
                return Ok(Exit::Failed);
            };
            way.delete_registration_token(token).await?;
            output::line(format!("registration token {} is deleted", token.name()));
            Ok(Exit::Done)
        }
    })
}

async fn add(way: &Admin, uses: Option<u64>, life: Option<u64>, file: &Path) -> Result<Exit, Trouble> {
    let given = if file == Path::new("random") { None } else { Some(read(file)?) };
    let Some(token) = way.add_registration_token(given.as_deref(), uses, life).await? else {
        output::problem(
            "there is this registration token already, and nothing was changed\n  \
             choose another one, or delete it first: synvisor register-token list",
        );
        return Ok(Exit::Failed);
    };
    if given.is_none() {
        // By itself, so that a script has it.
        output::line(&token.token);
    } else {
        output::line(format!("registration token {} holds", token.name()));
    }
    if !way.registration_requires_token() {
        output::problem(
            "note: nobody is asked for it, unless [synapse] has enable_registration = true and \
             registration_requires_token = true",
        );
    }
    Ok(Exit::Done)
}

/// A token that a file holds.
fn read(file: &Path) -> Result<String, Exit> {
    let shown = file.display();
    let read = if file == Path::new("-") {
        ask::secret_of(std::io::stdin().lock())
    } else {
        fs::read(file).map_err(|error| error.to_string()).and_then(|text| ask::secret_of(text.as_bytes()))
    };
    let why = match read {
        Ok(token) if is_token(&token) => return Ok(token),
        Ok(_) => "it holds no token of 1 to 64 letters, digits and the signs . _ ~ -".to_owned(),
        Err(why) => why,
    };
    output::problem(format!(
        "{shown} cannot be used: {why}\n  name a file that holds the token and nothing else"
    ));
    Err(Exit::Usage)
}

/// As Synapse has it (1.163: `synapse/rest/admin/registration_tokens.py`).
fn is_token(text: &str) -> bool {
    let sign = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(sign)
}

fn as_json(token: &RegistrationToken, shown: bool) -> serde_json::Value {
    let mut value = serde_json::json!({
        "name": token.name(), "uses_allowed": token.uses_allowed, "pending": token.pending,
        "completed": token.completed, "expiry_time": token.expiry_time,
    });
    if shown {
        value["token"] = token.token.as_str().into();
    }
    value
}

/// Milliseconds of a span as a person writes it.
fn life(text: &str) -> Result<u64, String> {
    let number = text.trim_end_matches(|sign: char| sign.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 7 * 86_400_000,
        _ => 0,
    };
    let life = number.parse::<u64>().ok().and_then(|count| count.checked_mul(unit)).filter(|life| *life > 0);
    match life {
        Some(life) if life <= LONGEST => Ok(life),
        Some(_) => Err("that is longer than ten years: leave it out, and it holds for good".to_owned()),
        None => Err("write a whole number and its unit, like 90m, 12h, 7d or 2w".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_has_a_unit() {
        // Mutation: the factor of `d` in seconds: seen red.
        for (text, millis) in
            [("90m", 5_400_000), ("12h", 43_200_000), ("7d", 604_800_000), ("2w", 1_209_600_000)]
        {
            assert_eq!(life(text), Ok(millis), "{text}");
        }
        for text in ["", "7", "d", "0d", "-1d", "1.5d", "7 d", "7s", "7D", "99999999999999999999d", "3661d"] {
            assert!(life(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_is_as_synapse_has_it() {
        // Mutation: one sign more: seen red.
        assert!(is_token("aZ0._~-"));
        assert!(is_token(&"a".repeat(64)));
        for text in ["", "a b", "ä", "a/b", &"a".repeat(65)] {
            assert!(!is_token(text), "{text}");
        }
    }

    #[test]
    fn tokens_are_shown_only_when_asked_for() {
        // Mutation: always in JSON: seen red.
        let token = RegistrationToken {
            token: "a-secret".to_owned(),
            uses_allowed: Some(1),
            pending: 0,
            completed: 0,
            expiry_time: None,
        };
        assert!(!as_json(&token, false).to_string().contains("a-secret"));
        assert_eq!(as_json(&token, true)["token"], "a-secret");
        assert!(!output::registration_tokens(std::slice::from_ref(&token), false).contains("a-secret"));
        assert!(output::registration_tokens(&[token], true).contains("a-secret"));
    }
}
