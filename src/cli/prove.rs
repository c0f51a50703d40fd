//! `meterseal prove`: what to prove, where to write it, and what to do with it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jiff::tz::TimeZone;

use super::{ConfigArgument, Done, Failed, complete, good_config, known_meters};
use crate::agent::proofs;
use crate::clock::Clock;
use crate::config::Config;
use crate::model::instant_ns;
use crate::model::proof::{AnchoredBy, Claim, ProofForm, ProofTold};
use crate::model::{BadId, JobId, MeterId, NotAJobId, Timestamp};

/// docs/evidence-format.md section 1: beyond that a verifier may refuse a proof unread.
const VERIFIED: u64 = 256 << 20;

#[derive(clap::Args)]
pub struct ProveArguments {
    /// The meter whose block or period is to be proven
    #[arg(value_name = "METER", required_unless_present = "dataset", conflicts_with = "dataset")]
    meter: Option<String>,
    /// The block that starts then
    #[arg(long, value_name = "START", required_unless_present_any = ["from", "dataset"], conflicts_with_all = ["from", "dataset"])]
    block: Option<String>,
    /// Every entry of the meter, so that nothing can be left out: the blocks from this time …
    #[arg(long, value_name = "T", requires_all = ["meter", "to"])]
    from: Option<String>,
    /// … up to this one
    #[arg(long, value_name = "T", requires = "from")]
    to: Option<String>,
    /// The dataset of this export
    #[arg(long, value_name = "ID")]
    dataset: Option<String>,
    /// One row of that dataset, counted from 0
    #[arg(long, value_name = "N", requires = "dataset")]
    row: Option<u64>,
    /// Where to write it, - for stdout; a name that ends in .tlog-proof gives that form [default: a name by what is
    /// proven, in this folder]
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgument,
}

pub fn prove(arguments: ProveArguments) -> Done {
    let config = good_config(&arguments.config.path, &Clock::system())?;
    let claim = arguments.claim(&config)?;
    let to_stdout = arguments.output.as_deref().is_some_and(|path| path == Path::new("-"));
    let named = arguments.output.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    let form = ProofForm::of_file(named.unwrap_or_default());
    let known = |failed: Failed| match claim.meter().filter(|meter| !is_configured(&config, meter)) {
        Some(meter) => failed.hint(known_meters(&config, meter)),
        None => failed,
    };
    if to_stdout {
        let mut out = io::stdout().lock();
        let made = complete(proofs::for_command(&config, claim.clone(), form, |piece| out.write_all(piece)))?;
        notes(&made.map_err(Failed::from).map_err(known)?);
        return Ok(ExitCode::SUCCESS);
    }
    let path = arguments.output.clone().unwrap_or_else(|| claim.file_name(form).into());
    if named.is_some_and(|name| !name.ends_with(form.ending())) {
        let why = format!("a proof is told by its name, and {} does not end in {}", path.display(), form.ending());
        return Err(Failed::new(why).hint(format!("For example: -o {}", claim.file_name(form))));
    }
    let mut file = Written::begin(&path)?;
    let made = complete(proofs::for_command(&config, claim.clone(), form, |piece| file.file.write_all(piece)))?;
    let told = made.map_err(Failed::from).map_err(known)?;
    let bytes = file.finish()?;
    notes(&told);
    if bytes > VERIFIED {
        eprintln!("It has {} MB, and a verifier may refuse to read more than {}.", bytes >> 20, VERIFIED >> 20);
    }
    let path = path.display();
    let with = match claim {
        Claim::Dataset { id } => format!("beside the bundle {id} or {id}.tar"),
        _ => "with nothing but this file and the key".to_owned(),
    };
    eprintln!("{path} is written. To check it, {with}:\n  {}", check(&path.to_string(), &told));
    Ok(ExitCode::SUCCESS)
}

pub fn notes(told: &ProofTold) {
    told.notes.iter().for_each(|note| eprintln!("{note}"));
}

/// The command that checks a proof with all that is known of it here.
pub fn check(path: &str, told: &ProofTold) -> String {
    let mut command = format!("meterseal verify {path} --key {}", told.key);
    let Some(AnchoredBy { chain_id: chain, .. }) = told.anchored.first() else { return command };
    command += " \\\n   ";
    // Every anchor must be on the chain that is given, and by one of the accounts.
    if told.anchored.iter().all(|by| by.chain_id == *chain) {
        command += &format!(" --chain {chain}");
    }
    let mut named = Vec::new();
    for AnchoredBy { account, .. } in &told.anchored {
        if !named.contains(account) {
            command += &format!(" --account {account}");
            named.push(*account);
        }
    }
    for _ in told.anchored.iter().map(|by| by.chain_id).collect::<BTreeSet<_>>() {
        command += " --rpc URL-OF-A-NODE";
    }
    command
}

fn is_configured(config: &Config, meter: &MeterId) -> bool {
    config.meters().iter().any(|known| known.id == *meter)
}

impl ProveArguments {
    fn claim(&self, config: &Config) -> Result<Claim, Failed> {
        // The config has checked the zone's name.
        let zone = TimeZone::get(&config.site.timezone).unwrap_or(TimeZone::UTC);
        let time = |text: &String| instant(text, &zone);
        if let Some(dataset) = &self.dataset {
            let id: JobId = dataset.parse().map_err(|error: NotAJobId| Failed::new(error.to_string()))?;
            return Ok(self.row.map_or(Claim::Dataset { id }, |row| Claim::Row { dataset: id, row }));
        }
        let meter = self.meter.as_deref().unwrap_or_default();
        let meter = meter.parse().map_err(|error: BadId| Failed::new(error.to_string()))?;
        match (&self.block, &self.from, &self.to) {
            (Some(start), ..) => Ok(Claim::Block { meter, start: time(start)? }),
            (None, Some(from), Some(to)) => Ok(Claim::Period { meter, from: time(from)?, to: time(to)? }),
            _ => Err(Failed::new("say what is to be proven: --block START, or --from T and --to T")),
        }
    }
}

/// As in the API: RFC 3339, a time of the site, or milliseconds since 1970.
fn instant(text: &str, zone: &TimeZone) -> Result<Timestamp, Failed> {
    if let Some(millis) = text.parse::<i64>().ok().filter(|millis| millis.unsigned_abs() > 100_000_000_000) {
        return Ok(Timestamp::from_millis(millis));
    }
    let ns = instant_ns(text, zone).map_err(|why| Failed::new(why.replace("nanoseconds", "milliseconds")))?;
    Ok(Timestamp::from_millis(ns.div_euclid(1_000_000)))
}

/// A file that bears its name only when it is whole.
pub struct Written {
    pub file: BufWriter<File>,
    part: PathBuf,
    path: PathBuf,
}

impl Written {
    pub fn begin(path: &Path) -> Result<Self, Failed> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file =
            File::create(&part).map_err(|error| Failed::new(format!("cannot write {}: {error}", part.display())))?;
        Ok(Self { file: BufWriter::new(file), part, path: path.to_owned() })
    }

    /// The bytes that it has.
    pub fn finish(mut self) -> Result<u64, Failed> {
        let done = self.file.flush().and_then(|()| fs::rename(&self.part, &self.path));
        let done = done.and_then(|()| Ok(self.file.get_ref().metadata()?.len()));
        done.map_err(|error| Failed::new(format!("cannot write {}: {error}", self.path.display())))
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        // Only what is no whole proof still bears this name.
        fs::remove_file(&self.part).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::Address;

    #[test]
    fn the_command_names_all_who_anchored_and_a_chain_if_it_is_one() {
        let by = |chain_id, account| AnchoredBy { chain_id, account: Address::repeat_byte(account) };
        let command = |anchored: &[AnchoredBy]| {
            check("a.proof.json", &ProofTold { key: "KEY".into(), notes: Vec::new(), anchored: anchored.to_vec() })
        };
        let (one, two) = (Address::repeat_byte(0x11), Address::repeat_byte(0x22));
        let begins = "meterseal verify a.proof.json --key KEY";
        assert_eq!(command(&[]), begins);
        let rpc = "--rpc URL-OF-A-NODE";
        let more = |text: String| format!("{begins} \\\n    {text}");
        assert_eq!(command(&[by(137, 0x11)]), more(format!("--chain 137 --account {one} {rpc}")));
        let accounts = format!("--account {one} --account {two}");
        assert_eq!(command(&[by(137, 0x11), by(137, 0x22)]), more(format!("--chain 137 {accounts} {rpc}")));
        assert_eq!(command(&[by(80_002, 0x11), by(137, 0x22)]), more(format!("{accounts} {rpc} {rpc}")));
        assert_eq!(command(&[by(80_002, 0x11), by(137, 0x11)]), more(format!("--account {one} {rpc} {rpc}")));
    }
}
