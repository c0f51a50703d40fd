//! What this machine is, so that a store that was copied to another one is noticed.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::model::Digest;

/// By what a machine is known, each as its SHA-256; what cannot be read is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// machine-id(5): of the installation.
    machine: Option<Digest>,
    /// Serial number of the board, by device tree or DMI. Only root may read the latter.
    board: Option<Digest>,
    /// Those of its disks, which stand in for the board where that is not told.
    #[serde(default)]
    disks: Option<Digest>,
    /// Addresses of the network interfaces that are devices.
    addresses: Vec<Digest>,
}

/// A serial number is a line; what is longer is none.
const LONGEST: usize = 256;

impl Hardware {
    /// That of the machine whose files lie below `root`.
    pub fn read(root: &Path) -> Self {
        let serials = ["proc/device-tree/serial-number", "sys/class/dmi/id/board_serial"];
        let interfaces = fs::read_dir(root.join("sys/class/net")).into_iter().flatten().flatten();
        let mut addresses: Vec<_> = interfaces
            .filter(|interface| interface.path().join("device").exists())
            .filter_map(|interface| word(&interface.path().join("address")))
            .collect();
        addresses.sort();
        Self {
            machine: word(&root.join("etc/machine-id")),
            board: serials.iter().find_map(|serial| word(&root.join(serial))),
            disks: disks(root),
            addresses,
        }
    }

    /// Another machine: two of the three differ. One alone is a new network card, a repaired board or a new installation;
    /// what either side does not know says nothing.
    pub fn is_other(&self, now: &Self) -> bool {
        let differ = |kept: Option<Digest>, now: Option<Digest>| kept.zip(now).is_some_and(|(kept, now)| kept != now);
        let known = !self.addresses.is_empty() && !now.addresses.is_empty();
        let moved = known && !self.addresses.iter().any(|address| now.addresses.contains(address));
        let board = if self.board.and(now.board).is_some() {
            differ(self.board, now.board)
        } else {
            differ(self.disks, now.disks)
        };
        let all = [differ(self.machine, now.machine), board, moved];
        all.into_iter().filter(|differs| *differs).count() >= 2
    }

    /// What is to be kept of the same machine: what cannot be read just now is not forgotten.
    pub fn kept_with(&self, now: &Self) -> Self {
        Self {
            machine: now.machine.or(self.machine),
            board: now.board.or(self.board),
            disks: now.disks.or(self.disks),
            addresses: if now.addresses.is_empty() { &self.addresses } else { &now.addresses }.clone(),
        }
    }
}

/// The serial numbers of the disks that are built in, as one.
fn disks(root: &Path) -> Option<Digest> {
    let blocks = fs::read_dir(root.join("sys/block")).into_iter().flatten().flatten();
    let mut serials: Vec<_> = blocks
        .filter(|block| fs::read_to_string(block.path().join("removable")).is_ok_and(|text| text.trim() == "0"))
        .filter_map(|block| {
            // Of a card or eMMC, of NVMe, of SATA, of a virtual machine.
            ["device/cid", "device/serial", "device/wwid", "serial"]
                .iter()
                .find_map(|file| word(&block.path().join(file)))
        })
        .collect();
    serials.sort();
    let bytes: Vec<u8> = serials.iter().flat_map(|serial| *serial.as_bytes()).collect();
    (!bytes.is_empty()).then(|| Digest::of(&bytes))
}

/// The digest of a one-line file that says something.
fn word(path: &Path) -> Option<Digest> {
    let text = fs::read(path).ok().filter(|text| text.len() <= LONGEST)?;
    let text = String::from_utf8_lossy(&text).trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned();
    let says_nothing = text.is_empty() || text.bytes().all(|letter| matches!(letter, b'0' | b':' | b'-'));
    (!says_nothing).then(|| Digest::of(text.as_bytes()))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The files by which a machine is known.
    pub fn root_of(id: &str, serial: &str, address: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("etc/machine-id", &format!("{id}\n"));
        write("proc/device-tree/serial-number", &format!("{serial}\0"));
        write("sys/class/net/eth0/address", &format!("{address}\n"));
        write("sys/class/net/eth0/device/vendor", "");
        // A bridge or a container's interface is made up anew at each start.
        write("sys/class/net/docker0/address", "02:42:00:00:00:01\n");
        root
    }

    fn machine(id: &str, serial: &str, address: &str) -> Hardware {
        Hardware::read(root_of(id, serial, address).path())
    }

    #[test]
    fn two_of_three_must_differ() {
        let here = machine("a", "100", "10:00:00:00:00:01");
        assert!(!here.is_other(&here));
        assert!(!here.is_other(&machine("b", "100", "10:00:00:00:00:01")), "installed anew");
        assert!(!here.is_other(&machine("a", "100", "10:00:00:00:00:02")), "a new network card");
        assert!(here.is_other(&machine("b", "200", "10:00:00:00:00:01")));
        assert!(here.is_other(&machine("a", "200", "10:00:00:00:00:02")));
        assert!(here.is_other(&machine("b", "100", "10:00:00:00:00:02")));
    }

    #[test]
    fn disks_stand_in_for_a_board_that_is_not_told() {
        let with_disk = |serial: &str, disk: &str, address: &str| {
            let root = root_of("a", serial, address);
            for (name, removable) in [("mmcblk0", "0"), ("sda", "1")] {
                let block = root.path().join("sys/block").join(name);
                fs::create_dir_all(block.join("device")).unwrap();
                fs::write(block.join("removable"), removable).unwrap();
                fs::write(block.join("device/cid"), format!("{disk}{name}")).unwrap();
            }
            Hardware::read(root.path())
        };
        let here = with_disk("", "x", "10:00:00:00:00:01");
        assert!(here.is_other(&with_disk("", "y", "10:00:00:00:00:02")), "a copy of the whole disk elsewhere");
        assert!(!here.is_other(&with_disk("", "y", "10:00:00:00:00:01")), "a new card in the same gateway");
        assert!(!here.is_other(&with_disk("", "x", "10:00:00:00:00:02")), "the same card in a repaired gateway");
        // Root sees the board, the daemon does not: what both see decides.
        assert!(!with_disk("100", "x", "10:00:00:00:00:01").is_other(&with_disk("", "x", "10:00:00:00:00:02")));
    }

    #[test]
    fn what_is_not_known_says_nothing() {
        let here = machine("a", "100", "10:00:00:00:00:01");
        assert!(!here.is_other(&machine("b", "", "00:00:00:00:00:00")));
        assert!(!here.is_other(&Hardware::default()));
        assert!(!Hardware::default().is_other(&here));
        let later = here.kept_with(&machine("", "", "")).kept_with(&machine("a", "100", "10:00:00:00:00:02"));
        assert!(later.is_other(&machine("a", "200", "10:00:00:00:00:01")));
        assert_eq!(machine("", "000", "00:00:00:00:00:00"), Hardware::default());
    }
}
