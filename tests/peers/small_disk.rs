//! A small disk of its own, which can be filled up to its last page.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Disk(tempfile::TempDir);

impl Disk {
    /// None where this process may not mount one.
    pub fn mount(megabytes: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={megabytes}m,mode=0755");
        let told =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(folder.path()).output().unwrap();
        if told.status.success() {
            return Some(Self(folder));
        }
        println!("left out, as no disk can be mounted here: {}", String::from_utf8_lossy(&told.stderr).trim_end());
        None
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    pub fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.filler()).unwrap();
        while file.write_all(&[0; 4_096]).is_ok() {}
    }

    pub fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, as a program may still be ending.
        Command::new("umount").arg("-l").arg(self.path()).status().ok();
    }
}
