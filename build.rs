//! Packs what the program serves unchanged: the page's files and the description of the API. Browsers take them as they
//! lie in the program, which needs less flash and less memory for it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use flate2::Compression;
use flate2::write::GzEncoder;

const PAGE: &str = "src/web/page";
const DESCRIPTION: &str = "docs/openapi.json";

fn main() -> io::Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    for source in [PAGE, DESCRIPTION] {
        println!("cargo::rerun-if-changed={source}");
    }
    pack_all(Path::new(PAGE), &out.join("page"))?;
    pack(Path::new(DESCRIPTION), &out)
}

fn pack_all(folder: &Path, into: &Path) -> io::Result<()> {
    fs::create_dir_all(into)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            pack_all(&entry.path(), &into.join(entry.file_name()))?;
        } else {
            pack(&entry.path(), into)?;
        }
    }
    Ok(())
}

/// `NAME.gz` in `folder`: the same bytes each time, as there is no time of day in them.
fn pack(file: &Path, folder: &Path) -> io::Result<()> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&fs::read(file)?)?;
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".gz");
    fs::write(folder.join(name), encoder.finish()?)
}
