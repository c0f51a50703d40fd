//! How a line is reached: one of `tcp`, `rtu_over_tcp` and `serial`.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv6Addr;
use std::path::{Component, Path, PathBuf};

use super::files::Whence;
use super::report::{MISSING, Place};
use super::section::{Field, Section};
use super::tree::Value;
use crate::model::Parity;
use crate::sources::{Serial, Wire};

const WIRES: [&str; 3] = ["tcp", "serial", "rtu_over_tcp"];
const PARITIES: [&str; 3] = ["none", "even", "odd"];

/// Where the system names serial ports by their adapter, and by the socket it is plugged into.
const STABLE_NAMES: [&str; 2] = ["/dev/serial/by-id", "/dev/serial/by-path"];

/// Wires that are taken already, by address or device, and where.
pub type Taken = BTreeMap<String, Place>;

pub fn read(part: &mut Section, taken: &mut Taken) -> Option<Wire> {
    let report = part.report;
    let given: Vec<_> = WIRES.iter().filter_map(|key| Some((*key, part.get(key)?))).collect();
    if let [(first, _), others @ ..] = &given[..] {
        for (_, other) in others {
            other.fault::<()>(format!("the line has `{first}` as well, and one wire only"), "take one of them out");
        }
    } else {
        let mend = "say where the line is: tcp = \"192.0.2.10:502\", serial = \"/dev/serial/by-id/…\" or \
                    rtu_over_tcp = \"192.0.2.10:4001\"";
        report.fault(part.place, &part.path_of(WIRES[0]), MISSING, mend);
    }
    let is_serial = given.iter().any(|(key, _)| *key == "serial");
    let settings = settings(part, is_serial || given.is_empty());
    let [(key, field)] = &given[..] else { return None };
    if *key != "tcp" {
        one_at_a_time(part);
    }
    match *key {
        "tcp" => address(field, taken).map(Wire::Tcp),
        "rtu_over_tcp" => address(field, taken).map(Wire::RtuOverTcp),
        _ => {
            let (device, (baud, parity, stop_bits)) = (device(field, taken)?, settings?);
            Some(Wire::Serial(Serial { device, baud, parity, stop_bits }))
        }
    }
}

/// `baud`, `parity` and `stop_bits`.
fn settings(part: &mut Section, is_serial: bool) -> Option<(u32, Parity, u8)> {
    let (baud, parity, stop_bits) = (part.get("baud"), part.get("parity"), part.get("stop_bits"));
    if !is_serial {
        for field in [baud, parity, stop_bits].into_iter().flatten() {
            field.fault::<()>("only a line with `serial` has this", "take it out; a gateway is set up on its own page");
        }
        return None;
    }
    let baud = baud.map_or(Some(9600), |field| {
        let listed = || Serial::BAUDS.map(|baud| baud.to_string()).join(", ");
        let wanted = match *field.value {
            Value::Integer(wanted) => u32::try_from(wanted).ok().filter(|baud| Serial::BAUDS.contains(baud)),
            _ => None,
        };
        wanted.or_else(|| field.fault(format!("{} is no usual rate", field.shown()), format!("one of {}", listed())))
    });
    let parity = parity
        .map_or(Some(Parity::None), |field| Some([Parity::None, Parity::Even, Parity::Odd][field.one_of(&PARITIES)?]));
    let stop_bits = stop_bits.map_or(Some(1), |field| match *field.value {
        Value::Integer(1) => Some(1),
        Value::Integer(2) => Some(2),
        _ => field.fault(format!("{} is neither 1 nor 2", field.shown()), ""),
    });
    Some((baud?, parity?, stop_bits?))
}

fn one_at_a_time(part: &mut Section) {
    if let Some(field) = part.get("parallel")
        && matches!(*field.value, Value::Integer(parallel) if parallel > 1)
    {
        let why = "a serial line carries one request at a time";
        field.fault::<()>(why, "take it out; several lines are several [[modbus]]");
    }
}

/// `host:port`; resolved when it is connected to, never here.
fn address(field: &Field, taken: &mut Taken) -> Option<String> {
    let text = field.text()?;
    let parts = text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
    let Some((host, Ok(port))) = parts else {
        return field.fault(format!("{} is no host and port", field.shown()), "write it as \"192.0.2.10:502\"");
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let formed = match bare {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
    };
    if !formed || port == 0 {
        return field.fault(format!("{} is no host and port", field.shown()), "write it as \"192.0.2.10:502\"");
    }
    if let Some(first) = taken.insert(text.to_owned(), field.place) {
        let why = format!("{text} is the address of another line at {}", field.report.spot(first));
        field.report.warn(
            field.place,
            &field.path,
            why,
            "units behind one address share a line; many gateways take one connection only",
        );
    }
    Some(text.to_owned())
}

/// The port need not be there: its adapter may be plugged in later.
fn device(field: &Field, taken: &mut Taken) -> Option<PathBuf> {
    let text = field.text()?;
    let device = Path::new(text);
    if !device.is_absolute() || text.ends_with('/') {
        return field.fault(format!("{} is no path of a port", field.shown()), "write it as \"/dev/ttyUSB0\"");
    }
    // Where a path leads tells what there is: it is asked of the folder of devices alone, unless a file has it.
    let is_free = field.whence() == Whence::File || is_device(device);
    if !is_free && field.whence() != Whence::Tried {
        return field.fault("a port that is given here lies in /dev", "write this line into a file of the config");
    }
    let real = if is_free { fs::canonicalize(device).ok() } else { None }.unwrap_or_else(|| device.to_owned());
    if let Some(first) = taken.insert(real.display().to_string(), field.place) {
        let why = format!("{text} is the port of another line at {}", field.report.spot(first));
        return field.fault(why, "units on one port share a line");
    }
    if is_by_order(device) {
        let stable = STABLE_NAMES.iter().find_map(|folder| name_in(Path::new(folder), &real));
        let mend = match stable {
            Some(stable) => format!("name it by its adapter: serial = \"{}\"", stable.display()),
            None => "name it by its adapter, as in /dev/serial/by-id".to_owned(),
        };
        let why = format!("{text} may be another port when an adapter is plugged in again");
        field.report.warn(field.place, &field.path, why, mend);
    }
    Some(device.to_owned())
}

fn is_device(path: &Path) -> bool {
    path.starts_with("/dev") && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

/// A name that the system gives in the order in which adapters are found.
fn is_by_order(device: &Path) -> bool {
    let name = device.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let numbered = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
    ["ttyUSB", "ttyACM"].iter().any(|kind| name.strip_prefix(kind).is_some_and(numbered))
}

/// The link in `folder` that leads to `real`.
fn name_in(folder: &Path, real: &Path) -> Option<PathBuf> {
    let mut links: Vec<PathBuf> = fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    links.sort();
    links.into_iter().find(|link| fs::canonicalize(link).is_ok_and(|leads_to| leads_to == real))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stable_name_of_a_port_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let (port, other) = (folder.path().join("ttyUSB0"), folder.path().join("ttyUSB1"));
        let by_id = folder.path().join("by-id");
        fs::create_dir(&by_id).unwrap();
        for (device, link) in [(&other, "usb-A-port0"), (&port, "usb-B-port0")] {
            fs::write(device, "").unwrap();
            std::os::unix::fs::symlink(device, by_id.join(link)).unwrap();
        }
        std::os::unix::fs::symlink("/nowhere", by_id.join("usb-0-gone")).unwrap();
        let port = fs::canonicalize(port).unwrap();
        assert_eq!(name_in(&by_id, &port), Some(by_id.join("usb-B-port0")));
        assert_eq!(name_in(&by_id, Path::new("/dev/ttyUSB9")), None);
        assert_eq!(name_in(Path::new("/nowhere"), &port), None);
        assert!(is_by_order(&port) && is_by_order(Path::new("/dev/ttyACM12")));
        for stable in ["/dev/ttyUSB-meters", "/dev/ttyUSB", "/dev/ttyS0", "/dev/serial/by-id/usb-B-port0"] {
            assert!(!is_by_order(Path::new(stable)), "{stable}");
        }
    }
}
