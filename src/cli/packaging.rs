//! Completions and manual pages, for packages.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;

use super::{Arguments, Done, Failed};

pub fn completions(shell: clap_complete::Shell) -> Done {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "meterseal", &mut text);
    written(io::stdout().write_all(&text))
}

/// The page of the whole program on stdout, or one page for each command in `folder`.
pub fn man(folder: Option<&Path>) -> Done {
    let command = Arguments::command();
    let Some(folder) = folder else {
        return written(clap_mangen::Man::new(command).render(&mut io::stdout()));
    };
    let made = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder));
    made.map_err(|error| Failed::new(format!("cannot write to {}: {error}", folder.display())))?;
    Ok(ExitCode::SUCCESS)
}

/// A reader that closes its end early, such as `head`, is no failure.
fn written(outcome: io::Result<()>) -> Done {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failed::new(format!("cannot write: {error}"))),
        _ => Ok(ExitCode::SUCCESS),
    }
}
