//! Programs that are waited for while they say how far they are.

use std::io::BufRead;
use std::io::BufReader;
use std::process::Command;

/// Lines of a program that failed which are shown.
const SHOWN: usize = 12;

/// Runs a program to its end and says each line of it.
///
/// # Errors
/// The last lines of one that failed.
pub fn run(mut command: Command, say: &mut dyn FnMut(&str)) -> Result<(), String> {
    let wrong = |error: std::io::Error| error.to_string();
    let (reader, writer) = std::io::pipe().map_err(wrong)?;
    command.stdout(writer.try_clone().map_err(wrong)?).stderr(writer);
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().map_err(|error| format!("{program} cannot be run: {error}"))?;
    // Its ends of the pipe are the last ones then.
    drop(command);
    let mut last: Vec<String> = Vec::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line.map_err(wrong)?).trim_end().to_owned();
        say(&line);
        if !line.is_empty() {
            last.push(line);
            last.drain(..last.len().saturating_sub(SHOWN));
        }
    }
    if child.wait().map_err(wrong)?.success() {
        return Ok(());
    }
    Err(last.join("\n"))
}
