//! What only a person can say: passwords, which nobody else may see, and whether it is meant.

use std::io;
use std::io::IsTerminal;
use std::io::Read;

use super::Exit;
use super::output;

/// Bytes of what is read as one secret.
const MOST: u64 = 16 * 1024;

/// A new password: from standard input, or typed twice, unseen.
pub(super) fn password(from_stdin: bool) -> Result<String, Exit> {
    if from_stdin {
        return secret_of(io::stdin().lock()).map_err(|why| {
            output::problem(format!("the password cannot be read from standard input: {why}"));
            Exit::Usage
        });
    }
    let typed = |prompt: &str| {
        rpassword::prompt_password(prompt).map_err(|error| {
            output::problem(format!(
                "there is no terminal to type a password on: {error}\n  \
                 give it by standard input: … --password-stdin <FILE"
            ));
            Exit::Usage
        })
    };
    let first = typed("New password: ")?;
    if typed("Once more: ")? != first {
        output::problem("the two are not the same, and nothing was changed\n  try again");
        return Err(Exit::Failed);
    }
    Ok(first)
}

/// A secret that is all that a file holds; an end of line is none of it.
pub(super) fn secret_of(from: impl Read) -> Result<String, String> {
    let mut text = String::new();
    from.take(MOST).read_to_string(&mut text).map_err(|error| error.to_string())?;
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.contains(char::is_control) {
        return Err("it holds more than one line\n  give one line, and nothing beside the secret".to_owned());
    }
    Ok(secret.to_owned())
}

/// Whether something is meant that cannot be undone; where there is nobody to ask, `flag` has to say so.
pub(super) fn is_meant(question: &str, flag: &str) -> Result<(), Exit> {
    if !io::stdin().is_terminal() {
        output::problem(format!("{question}\n  there is no terminal to ask on: say so with {flag}"));
        return Err(Exit::Usage);
    }
    output::problems(&format!("{question} [y/N] "));
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    if read.is_ok() && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        return Ok(());
    }
    output::problem("nothing was changed");
    Err(Exit::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_line_and_its_spaces_are_its_own() {
        // Mutation: further lines taken: seen red.
        let read = |text: &str| secret_of(text.as_bytes());
        for text in [" a b ", " a b \n", " a b \r\n"] {
            assert_eq!(read(text).unwrap(), " a b ");
        }
        assert_eq!(read("").unwrap(), "");
        for text in ["a\nb\n", "a\n\n", "a\0b"] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }
}
