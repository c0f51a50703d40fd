//! Completions and manual pages, for packages.

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;

use super::{Arguments, Done, Failed, print};

pub fn completions(shell: clap_complete::Shell) -> Done {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "meterseal", &mut text);
    print::out(&String::from_utf8_lossy(&text));
    Ok(ExitCode::SUCCESS)
}

/// The page of the whole program on stdout, or one page for each command in `folder`.
pub fn man(folder: Option<&Path>) -> Done {
    let command = Arguments::command();
    let Some(folder) = folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).map_err(anyhow::Error::from)?;
        print::out(&String::from_utf8_lossy(&page));
        return Ok(ExitCode::SUCCESS);
    };
    let made = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder));
    made.map_err(|error| Failed::new(format!("cannot write to {}: {error}", folder.display())))?;
    Ok(ExitCode::SUCCESS)
}
