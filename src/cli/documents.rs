//! What packages bring beside the program: completions and manual pages, made from the command line itself.

use std::path::Path;

use clap::Command;
use clap_complete::Shell;

use super::Exit;
use super::output;

pub(super) fn completions(mut command: Command, shell: Shell) -> Exit {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "synvisor", &mut text);
    output::raw(&text);
    Exit::Done
}

/// One page for synvisor and one for each verb.
pub(super) fn man(command: Command, directory: &Path) -> Exit {
    match clap_mangen::generate_to(command, directory) {
        Ok(()) => Exit::Done,
        Err(error) => {
            output::problem(format!(
                "cannot write manual pages to {}: {error}\n  it has to be a directory that you may write to",
                directory.display()
            ));
            Exit::Failed
        }
    }
}
