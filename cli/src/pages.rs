//! Manual pages and completions, made from the command line's own definition, so that they never say anything else.

use crate::args::Arguments;
use crate::failure::Failure;
use clap::CommandFactory;
use clap_complete::Shell;
use std::path::Path;

/// Writes `arenite.1` and a page for each command into a directory, which is made if it is not there.
pub(crate) fn man(folder: &Path) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Arguments::command(), folder));
    written.map_err(|error| Failure::io(&error))
}

/// The script that teaches a shell to complete the tool's arguments.
pub(crate) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "arenite", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
