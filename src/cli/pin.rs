//! `meterseal pin`: the PINs of the page, and TOTP.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::{ConfigArgument, Done, Failed, complete, good_config, print};
use crate::agent::access::{self, AccessDone, AccessOrder};
use crate::clock::Clock;
use crate::store::Role;
use crate::web::{Pin, totp};

#[derive(Subcommand)]
pub enum PinCommand {
    /// Set a PIN of 6 to 12 digits: typed twice, or the first line of stdin. Sessions of the former PIN end
    #[command(after_help = "Example:\n  meterseal pin set\n  meterseal pin set --role viewer < viewer.pin")]
    Set {
        #[command(flatten)]
        config: ConfigArgument,
        /// admin does everything; viewer only reads
        #[arg(long, default_value = "admin", value_parser = role())]
        role: Role,
    },
    /// Have the admin show a code of an authenticator app as well (TOTP), and print ten recovery codes
    #[command(after_help = "Example:\n  meterseal pin totp")]
    Totp {
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Take a PIN away, or switch TOTP off. Without the admin's PIN the daemon tells a new set-up code in its journal
    #[command(after_help = "Example:\n  meterseal pin revoke --role viewer\n  meterseal pin revoke --totp")]
    Revoke {
        #[command(flatten)]
        config: ConfigArgument,
        /// Whose PIN
        #[arg(long, default_value = "admin", value_parser = role(), conflicts_with = "totp")]
        role: Role,
        /// Switch TOTP off, and leave the PINs
        #[arg(long)]
        totp: bool,
    },
}

fn role() -> impl clap::builder::TypedValueParser<Value = Role> {
    PossibleValuesParser::new(["admin", "viewer"])
        .map(|name| if name == Role::Admin.as_str() { Role::Admin } else { Role::Viewer })
}

pub fn pin(command: PinCommand) -> Done {
    match command {
        PinCommand::Set { config, role } => set(&config.path, role),
        PinCommand::Totp { config } => totp_on(&config.path),
        PinCommand::Revoke { config, role, totp } => revoke(&config.path, role, totp),
    }
}

fn set(path: &Path, role: Role) -> Done {
    let config = good_config(path, &Clock::system())?;
    let name = role.as_str();
    let pin = complete(chosen(name))??;
    complete(access::order(&config, AccessOrder::Pin { role, pin }))??;
    print::out(&format!("the PIN of the {name} is set: sign in with it on the page\n"));
    Ok(ExitCode::SUCCESS)
}

fn totp_on(path: &Path) -> Done {
    let config = good_config(path, &Clock::system())?;
    let secret = totp::random_secret().map_err(anyhow::Error::from)?;
    let uri = totp::uri(&secret, config.site_id.as_str());
    let secret = totp::base32(&secret);
    let picture = totp::qr_text(&uri).unwrap_or_default();
    print::out(&format!("{picture}\nuri:    {uri}\nsecret: {secret}\n\nTake it into an authenticator app.\n"));
    let code = complete(typed("Code of the app: ", true))??;
    let done = complete(access::order(&config, AccessOrder::Totp { secret, code }))??;
    let AccessDone::RecoveryCodes(codes) = done else { return Err(Failed::new("the daemon told no recovery codes")) };
    print::out(&format!(
        "TOTP is on. Each of these recovery codes stands in for a code once; keep them where the phone is not:\n{}\n",
        codes.join("\n")
    ));
    Ok(ExitCode::SUCCESS)
}

fn revoke(path: &Path, role: Role, totp: bool) -> Done {
    let config = good_config(path, &Clock::system())?;
    let order = if totp { AccessOrder::NoTotp {} } else { AccessOrder::NoPin { role } };
    complete(access::order(&config, order))??;
    let what = if totp { "TOTP is off".to_owned() } else { format!("the {} has no PIN any more", role.as_str()) };
    print::out(&format!("{what}\n"));
    Ok(ExitCode::SUCCESS)
}

/// A PIN that somebody chooses: twice where nobody sees what he types.
async fn chosen(role: &str) -> anyhow::Result<Pin> {
    let pin: Pin = typed(&format!("New PIN of the {role} (6 to 12 digits): "), false).await?.parse()?;
    pin.choosable()?;
    if io::stdin().is_terminal() && typed("Once more: ", false).await? != pin.reveal() {
        anyhow::bail!("the two differ: nothing was changed");
    }
    Ok(pin)
}

/// A line of stdin. On a terminal it is asked for, and shown while it is typed only when it may be.
async fn typed(prompt: &str, shown: bool) -> anyhow::Result<String> {
    let terminal = io::stdin().is_terminal();
    let quiet = if terminal && !shown { Some(Quiet::begin()?) } else { None };
    if terminal {
        let mut out = io::stderr();
        out.write_all(prompt.as_bytes())?;
        out.flush()?;
    }
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let line = tokio::select! {
        line = line => line??,
        // The terminal shows again what is typed before the command ends.
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            anyhow::bail!("nothing was changed");
        }
    };
    drop(quiet);
    Ok(line.trim().to_owned())
}

/// While it lives, the terminal does not show what is typed.
struct Quiet(rustix::termios::Termios);

impl Quiet {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if tcsetattr(io::stdin(), OptionalActions::Now, &self.0).is_err() {
            eprintln!("meterseal: the terminal stays quiet: type `stty echo`");
        }
        // The end of the line that was not shown.
        eprintln!();
    }
}
