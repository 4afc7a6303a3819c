//! Manual pages and completions, made from the command line's own definition, so that they never say anything else.

use crate::args::Arguments;
use crate::failure::Failure;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use std::io::{Error, Result};
use std::path::Path;

/// Writes `arenite.1` and a page for each command into a directory, which is made if it is not there.
pub(crate) fn man(folder: &Path) -> std::result::Result<(), Failure> {
    let mut root = Arguments::command().disable_help_subcommand(true);
    root.build();
    let pages = std::iter::once(&root).chain(root.get_subcommands());
    let written = std::fs::create_dir_all(folder).and_then(|()| {
        pages.into_iter().try_for_each(|command| {
            let name = command.get_display_name().unwrap_or_else(|| command.get_name());
            std::fs::write(folder.join(format!("{name}.1")), page(command)?)
        })
    });
    written.map_err(|error| Failure::io(&error))
}

/// One page. What stands behind the options in the help is laid out already, and is not to be filled into lines.
fn page(command: &Command) -> Result<String> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render(&mut page)?;
    let page = String::from_utf8(page).map_err(Error::other)?;
    Ok(page.replacen(".SH EXTRA\n", ".SH NOTES\n.nf\n", 1).replacen("\n.SH VERSION", "\n.fi\n.SH VERSION", 1))
}

/// The script that teaches a shell to complete the tool's arguments.
pub(crate) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "arenite", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
