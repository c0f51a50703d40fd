//! The command line: arguments in, text and exit codes out. The work is done by `agent`.

mod anchor;
mod backup;
mod doctor;
mod export;
mod health;
mod init;
mod key;
mod packaging;
mod pin;
mod print;
mod prove;
mod scan;
mod token;
mod upstream;
mod verify;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::agent::{self, LogLines, admin};
use crate::clock::Clock;
use crate::config::{self, Checked};
use crate::doctor::reader::Reader;
use crate::model::{MeterId, Origin, nearest};
use crate::sources::Wire;
use crate::{store, web};
pub use print::stderr_is_journal;

/// The seal on the meter for energy data: reads meters, loses no acknowledged reading, closes 30-minute energy blocks.
#[derive(Parser)]
#[command(
    name = "meterseal",
    version,
    after_help = "Example:\n  meterseal demo\n\nSee `meterseal COMMAND --help` for each command."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create the store and the gateway's key, once, and print the first API token
    #[command(after_help = "Example:\n  sudo -u meterseal meterseal init -c /etc/meterseal/meterseal.toml")]
    Init {
        #[command(flatten)]
        config: ConfigArgument,
        /// Make no API token: `meterseal token create` makes one when it is needed
        #[arg(long)]
        no_token: bool,
        /// Only while this file is there, which is taken away once there is a store: for packages and images
        #[arg(long, value_name = "FILE")]
        due: Option<PathBuf>,
    },
    /// Run the daemon
    #[command(after_help = "Example:\n  meterseal run -c /etc/meterseal/meterseal.toml\n\n\
        SIGHUP reads the config again, SIGTERM drains and stops. METERSEAL_LOG=debug says more.")]
    Run {
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Run the whole daemon on simulated meters, with no set-up
    #[command(after_help = "Example:\n  meterseal demo --listen 127.0.0.1:3001 --meters 8")]
    Demo {
        /// Address of the page and the API; port 0 takes a free one
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3001")]
        listen: SocketAddr,
        /// Keep the demo's store in this folder instead of a throw-away one
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// How many meters to simulate
        #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=2000))]
        meters: u16,
        /// A broker, such as mqtt://127.0.0.1: two more meters publish through it
        #[arg(long, value_name = "URL")]
        mqtt: Option<String>,
    },
    /// Tell every fault of a config: exit code 0 when there is none, 2 otherwise
    #[command(after_help = "Example:\n  meterseal check -c /etc/meterseal/meterseal.toml")]
    Check {
        #[command(flatten)]
        config: ConfigArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell whether the daemon runs and stores what it reads: exit code 0 when it does, 1 otherwise
    #[command(after_help = "Example:\n  sudo meterseal health --wait 60\n\n\
        What is away, such as a meter, is told as a problem and fails nothing.")]
    Health(health::HealthArguments),
    /// Poll a meter once and print what it says
    #[command(after_help = "Example:\n  meterseal read main-incomer")]
    Read {
        /// The meter's id in the config
        meter: String,
        #[command(flatten)]
        config: ConfigArgument,
        /// Print what the words would say in each of the four orders, even where the values make sense
        #[arg(long)]
        orders: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Find meters on a bus and print config ready to paste
    #[command(
        after_help = "Example:\n  meterseal scan 192.0.2.10\n  meterseal scan 192.0.2.10:4001 --rtu --units 1-32\n  \
        meterseal scan --serial /dev/ttyUSB0 >> /etc/meterseal/meterseal.toml\n\n\
        It only reads, one request at a time. What it finds is told on stderr, the config goes to stdout."
    )]
    Scan(scan::ScanArguments),
    /// Show the keys that the log is signed with, or go over to a new one
    #[command(subcommand, after_help = "Example:\n  meterseal key show")]
    Key(key::KeyCommand),
    /// Set the PINs with which people sign in on the page, and TOTP
    #[command(subcommand, after_help = "Example:\n  sudo meterseal pin set")]
    Pin(pin::PinCommand),
    /// Make, list and revoke tokens for programs that use the API
    #[command(subcommand, after_help = "Example:\n  meterseal token create grafana --scope read")]
    Token(token::TokenCommand),
    /// Write a proof of a block, a period, a dataset or one of its rows, which `verify` accepts anywhere
    #[command(
        after_help = "Examples:\n  meterseal prove main-incomer --block 2026-11-21T08:00\n  meterseal prove main-incomer \
        --from 2026-11-01 --to 2026-12-01 -o november.proof.json\n  meterseal prove --dataset 01KAJ3Q9Z5V7T0R2M4N6P8S1WX \
        --row 12\n\nTimes without a zone are the site's. The proof opens what it proves, and tells nothing of other meters."
    )]
    Prove(prove::ProveArguments),
    /// Verify a bundle, a proof or a folder of the log, offline or with the word of a chain
    #[command(after_help = "Examples:\n  meterseal verify 01KA2B….proof.json --key plant-7/…+1f3c…+AW…\n  \
        meterseal verify 01KA2B….proof.json --key plant-7/…+1f3c…+AW… --chain 137 \\\n    \
        --account 0x52908400098527886E0F7030069857D2E4169EE7 --rpc https://polygon-rpc.com\n  \
        meterseal verify 01KA2B… --key plant-7/…+1f3c…+AW… --account 0x5290… --trust blocks.txt\n\n\
        It needs no config and no store, and asks nobody but the nodes of --rpc: they learn which block you ask for.\n\
        Exit code: 0 valid, 1 something does not hold, 2 cannot be read, 3 valid in itself, but something outside is\n\
        missing to rely on it: a key, an anchor, its account, somebody's word for its block, a proof.")]
    Verify(verify::VerifyArguments),
    /// Export a period from InfluxDB as a bundle that anybody can verify
    #[command(
        after_help = "Example:\n  meterseal export plant --query energy --from 2026-11-01 --to 2026-12-01 -o /media/usb\n  \
        meterseal export --list\n  meterseal export --fetch 01KA2B… -o /media/usb\n\n\
        Goes through the daemon when it runs. Ctrl-C cancels the export. What was cut off by a crash or a power cut goes \
        on with the next start of the daemon."
    )]
    Export(export::ExportArguments),
    /// Anchor checkpoints of the log on a public chain: now, status, deploy
    #[command(subcommand, after_help = "Example:\n  meterseal anchor status")]
    Anchor(anchor::AnchorCommand),
    /// What is sent to others: status, flush, dead-letters, replay, discard
    #[command(
        after_help = "Example:\n  meterseal upstream\n  meterseal upstream flush cloud\n  meterseal upstream dead-letters cloud\n\n\
        Goes through the daemon when it runs. Without it the store tells how far each upstream is."
    )]
    Upstream(upstream::UpstreamArguments),
    /// Write a backup of the whole store, also while the daemon runs
    #[command(after_help = "Examples:\n  sudo meterseal backup /media/usb/plant-7.backup\n  \
        sudo meterseal backup - | ssh office 'cat > plant-7.backup'\n\n\
        It has all that was stored up to one point in time: readings, blocks, the log, positions, PINs, tokens and bundles.\n\
        The private keys are left out unless --with-key asks for them. Passwords and tokens of connections that were made\n\
        on the page are in it: the file is for its owner alone.")]
    Backup(backup::BackupArguments),
    /// Make the store of a backup, while the daemon is stopped
    #[command(
        after_help = "Examples:\n  sudo systemctl stop meterseal && sudo meterseal restore /media/usb/plant-7.backup\n  \
        meterseal restore --check /media/usb/plant-7.backup\n\n\
        Every byte is checked before anything is touched. A store that is there is refused, or set aside with --replace.\n\
        At the next start the log goes on in a new epoch; without the private keys the gateway gets a new id and key."
    )]
    Restore(backup::RestoreArguments),
    /// Look at everything, and say what to do about what is not well
    #[command(after_help = "Example:\n  sudo meterseal doctor\n  sudo meterseal doctor --json\n\n\
        Asks the daemon when it runs, and looks by itself when it does not: then it also tries ports and gateways. It \
        changes no setting.\nExit code: 0 nothing is broken, 1 something is, 2 nothing could be looked at (arguments, no \
        such config, no\npermission).")]
    Doctor(doctor::DoctorArguments),
    /// Run simulated Modbus/TCP meters alone, for tests and training
    #[command(
        after_help = "Example:\n  meterseal simulate --listen 127.0.0.1:5020 --meters 8 --template eastron-sdm630"
    )]
    Simulate {
        /// Address of the first meters; port 0 takes a free one
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5020")]
        listen: SocketAddr,
        /// How many meters to simulate
        #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=2000))]
        meters: u16,
        /// Whose registers they have; given several times, or with commas between, the units have them in turn
        #[arg(long, value_name = "T", default_value = "eastron-sdm630", value_delimiter = ',')]
        template: Vec<String>,
    },
    /// Print the completions of a shell
    #[command(after_help = "Example:\n  meterseal completions bash > /usr/share/bash-completion/completions/meterseal")]
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write the pages of all commands to a folder
    #[command(after_help = "Example:\n  meterseal man | man -l -")]
    Man {
        /// Write meterseal.1, meterseal-run.1 and so on here
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
struct ConfigArgument {
    /// The config
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = config::DEFAULT_PATH)]
    path: PathBuf,
}

/// What ended a command: one plain sentence, a hint, and the exit code.
pub struct Failed {
    why: String,
    hint: Option<String>,
    code: u8,
}

impl Failed {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), hint: None, code: 1 }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format!("{error:#}"))
    }
}

impl From<store::StoreError> for Failed {
    fn from(error: store::StoreError) -> Self {
        anyhow::Error::from(error).into()
    }
}

/// A bad config with no last good one: systemd must not try again (`RestartPreventExitStatus=78`, sysexits.h).
const EX_CONFIG: u8 = 78;

/// `check` found faults.
const FAULTY: u8 = 2;

/// Arguments that do not go together, as clap has it.
const USAGE: u8 = 2;

/// True for commands that run long and log: the others print.
pub fn logs(arguments: &Arguments) -> bool {
    matches!(arguments.command, Command::Run { .. } | Command::Demo { .. } | Command::Simulate { .. })
}

/// Does what was asked, prints what came of it, and gives the exit code.
pub fn run(arguments: Arguments, log: LogLines) -> ExitCode {
    let done = match arguments.command {
        Command::Init { config, no_token, due } => init::init(&config.path, no_token, due.as_deref()),
        Command::Run { config } => daemon(&config.path, log),
        Command::Demo { listen, data, meters, mqtt } => demo(listen, data, meters, mqtt),
        Command::Check { config, json } => check(&config.path, json),
        Command::Health(arguments) => health::health(&arguments),
        Command::Read { meter, config, orders, json } => read(&meter, &config.path, orders, json),
        Command::Scan(arguments) => scan::scan(arguments),
        Command::Key(command) => key::key(command),
        Command::Pin(command) => pin::pin(command),
        Command::Token(command) => token::token(command),
        Command::Prove(arguments) => prove::prove(arguments),
        Command::Verify(arguments) => verify::verify(arguments),
        Command::Export(arguments) => export::export(arguments),
        Command::Anchor(command) => anchor::anchor(command),
        Command::Upstream(arguments) => upstream::upstream(arguments),
        Command::Backup(arguments) => backup::back_up(arguments),
        Command::Restore(arguments) => backup::restore(arguments),
        Command::Doctor(arguments) => doctor::doctor(arguments),
        Command::Simulate { listen, meters, template } => simulate(listen, meters, &template),
        Command::Completions { shell } => packaging::completions(shell),
        Command::Man { output } => packaging::man(output.as_deref()),
    };
    match done {
        Ok(code) => code,
        Err(failed) => {
            print::fatal(&format!("meterseal: {}", failed.why));
            if let Some(hint) = failed.hint {
                print::fatal(&hint);
            }
            ExitCode::from(failed.code)
        }
    }
}

type Done = Result<ExitCode, Failed>;

fn daemon(path: &Path, log: LogLines) -> Done {
    agent::end_on_panic();
    match complete(agent::run(path, log))? {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(agent::RunError::Config { faults }) => {
            let failed = faulty(path, &faults, " and there is no last good config");
            Err(Failed { code: EX_CONFIG, ..failed })
        }
        Err(agent::RunError::Failed(error)) => Err(error.into()),
    }
}

fn demo(listen: SocketAddr, data: Option<PathBuf>, meters: u16, mqtt: Option<String>) -> Done {
    if !listen.ip().is_loopback() {
        let why = format!("--listen {listen} can be reached from outside, and a demo is for this machine alone");
        let hint = "Listen on 127.0.0.1 and come through a tunnel, such as ssh -L.";
        return Err(Failed::new(why).hint(hint));
    }
    agent::end_on_panic();
    complete(agent::demo::run(listen, data, usize::from(meters), mqtt))??;
    Ok(ExitCode::SUCCESS)
}

fn simulate(listen: SocketAddr, meters: u16, templates: &[String]) -> Done {
    complete(agent::demo::simulate(listen, usize::from(meters), templates))??;
    Ok(ExitCode::SUCCESS)
}

fn check(path: &Path, json: bool) -> Done {
    let (_, mut checked) = config::load(path, Clock::system().now());
    if rustix::process::geteuid().is_root() {
        let closed = closed_to_the_daemon(path, &checked);
        checked.warnings.extend(closed);
    }
    if json {
        print::check_json(&checked);
    } else {
        print::check(path, &checked);
        let web = checked.config.as_ref().map(|config| &config.web);
        if let Some(fingerprint) = web.and_then(|web| web::look_at(&web.tls, &web.folder, Clock::system().now()).0) {
            print::out(&format!("certificate of the page (SHA-256): {fingerprint}\n"));
        }
    }
    Ok(if checked.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAULTY) })
}

/// What root reads, and the daemon's user may not: a config that is good here would be refused there.
fn closed_to_the_daemon(path: &Path, checked: &Checked) -> Vec<config::Fault> {
    let Some(reader) = Reader::of_daemon(&checked.store.path, path) else { return Vec::new() };
    let closed = checked.used.iter().filter_map(|used| {
        let at = reader.stopped_at(&used.path)?;
        let (user, shown) = (&reader.name, at.display());
        let (why, mend) = if at.is_dir() {
            let what = used.path.display();
            (
                format!("the daemon's user {user} may not read {what}: the folder {shown} is closed to it"),
                format!("move the file where {user} may look, such as /etc/meterseal, or open that folder"),
            )
        } else {
            (
                format!("the daemon's user {user} may not read {shown}"),
                format!("chgrp {user} {shown} && chmod 640 {shown}"),
            )
        };
        Some(config::Fault { file: used.file.clone(), line: used.line, key: used.key.clone(), why, mend })
    });
    closed.collect()
}

fn read(meter: &str, path: &Path, orders: bool, json: bool) -> Done {
    let id: MeterId = meter.parse().map_err(|error: crate::model::BadId| Failed::new(error.to_string()))?;
    let config = good_config(path, &Clock::system())?;
    let origin = config.meters().iter().find(|meter| meter.id == id).map(|meter| &meter.origin);
    if let Some(Origin::Sum { add, subtract }) = origin {
        let parts: Vec<_> = add.iter().chain(subtract).map(MeterId::as_str).collect();
        let why = format!("{id} is a sum of other meters and has no registers of its own");
        return Err(Failed::new(why).hint(format!("Read its parts: {}.", parts.join(", "))));
    }
    if let Some(Origin::Mqtt { broker, name }) = origin {
        let why = format!("{id} publishes by itself, as `{name}` on broker {broker}, and cannot be asked");
        return Err(Failed::new(why).hint("What it published last is on the page, and in /api/meters of the daemon."));
    }
    let report = complete(admin::read_meter(&config, &id))?.map_err(|error| {
        let hint = if let Some(origin) = origin { of_unit(&config, origin) } else { known_meters(&config, &id) };
        Failed::from(error).hint(hint)
    })?;
    if json {
        print::json(&report);
    } else {
        print::poll(&report, orders);
    }
    if report.values.iter().any(|polled| polled.value.is_some()) {
        return Ok(ExitCode::SUCCESS);
    }
    let mut reasons = report.values.iter().filter_map(|polled| polled.absent.as_deref());
    let first = reasons.next().unwrap_or("it was asked nothing");
    let more = if reasons.any(|other| other != first) { ", and other reasons" } else { "" };
    let failed = Failed::new(format!("meter {id} gave no value: {first}{more}"));
    Err(if let Some(origin) = origin { failed.hint(of_unit(&config, origin)) } else { failed })
}

/// What is wrong most often with a meter that says nothing, or nothing of use.
fn of_unit(config: &config::Config, origin: &Origin) -> String {
    let Origin::Modbus { line, unit, .. } = origin else { return "See that the device is on.".to_owned() };
    let of_line = config.sources.lines.iter().find(|known| known.name == *line);
    let see = match of_line.map(|line| &line.wire) {
        Some(Wire::Serial(_)) => {
            "that baud rate and parity are those set on it, that A and B are not swapped, and that the template is its own"
        }
        _ => "that address and template are its own",
    };
    format!("Is the unit number {unit} right? See also that the device is on, and {see}.")
}

fn known_meters(config: &config::Config, wanted: &MeterId) -> String {
    let known = || config.meters().iter().map(|meter| meter.id.as_str());
    let near = nearest(wanted.as_str(), known()).map(|near| format!("Did you mean {near}? "));
    format!("{}Known meters: {}.", near.unwrap_or_default(), known().collect::<Vec<_>>().join(", "))
}

/// The config, when it has no fault; otherwise they are printed.
fn good_config(path: &Path, clock: &Clock) -> Result<config::Config, Failed> {
    config_and_warnings(path, clock).map(|(config, _)| config)
}

fn config_and_warnings(path: &Path, clock: &Clock) -> Result<(config::Config, Vec<config::Fault>), Failed> {
    let (_, Checked { config, faults, warnings, .. }) = config::load(path, clock.now());
    let config = config.ok_or_else(|| Failed { code: FAULTY, ..faulty(path, &faults, "") })?;
    Ok((config, warnings))
}

/// A remedy as it stands by itself.
fn sentence(mend: &str) -> String {
    let mut letters = mend.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}

/// Tells the faults of a config. One that cannot be read at all has none that `check` would say more of.
fn faulty(path: &Path, faults: &[config::Fault], more: &str) -> Failed {
    if let [fault] = faults
        && fault.line == 0
        && fault.key.is_empty()
    {
        return Failed::new(format!("{} {}{more}", fault.file.display(), fault.why)).hint(sentence(&fault.mend));
    }
    print::faults(faults);
    let why = format!("{} has {}{more}", path.display(), print::counted(faults.len(), "fault"));
    Failed::new(why).hint("Mend it, and see with `meterseal check`.")
}

/// Runs the work of a command on this thread; polling and the store have threads of their own. Blocking threads are
/// many on purpose and come only when needed: names that no server answers for can hold one thread for each line, and
/// the store's reads must not wait for them.
fn complete<T>(work: impl Future<Output = T>) -> Result<T, Failed> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.thread_keep_alive(Duration::from_secs(5)).enable_all();
    let runtime = builder.build().map_err(|error| Failed::new(format!("cannot start threads: {error}")))?;
    let done = runtime.block_on(work);
    // A name that is still being looked up must not hold up the end.
    runtime.shutdown_background();
    Ok(done)
}
