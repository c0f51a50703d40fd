//! What the machine says of itself: files of the kernel (Linux, proc(5), sysfs(5)) and names on the disk.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::facts::{Device, Disk, Machine, MarkFacts, PortFacts, Setup, TimeService};
use crate::clock;
use crate::model::Timestamp;

/// Looks at the clock, the disk and the serial ports. `daemon` is the process that may have the ports open.
pub fn look(setup: Option<&Setup>, daemon: Option<u32>) -> Machine {
    let kernel = clock::kernel_clock().map(|kernel| (kernel.state, kernel.greatest_error_us));
    let mut machine = Machine {
        clock: kernel,
        has_rtc: fs::read_dir("/sys/class/rtc").is_ok_and(|mut clocks| clocks.next().is_some()),
        time_service: time_service(),
        uptime_ms: clock::Clock::system().since_boot_ms(),
        ..Machine::default()
    };
    if let Some(setup) = setup {
        machine.disk = disk(&setup.store);
        machine.mark = Some(mark(&setup.mark, &setup.store));
        machine.device = fs::metadata(&setup.store).ok().and_then(|store| device(Path::new("/sys"), store.dev()));
        machine.ports = ports(setup, daemon);
    }
    machine
}

fn time_service() -> TimeService {
    let is_there = |paths: &[&str]| paths.iter().any(|path| Path::new(path).exists());
    if is_there(&["/usr/sbin/chronyd"]) {
        TimeService::Chrony
    } else if is_there(&["/usr/sbin/ntpd"]) {
        TimeService::Ntpd
    } else if is_there(&["/lib/systemd/systemd-timesyncd", "/usr/lib/systemd/systemd-timesyncd"]) {
        TimeService::Timesyncd
    } else {
        TimeService::None
    }
}

fn disk(store: &Path) -> Option<Disk> {
    // Before `init` the folder itself is not there.
    let there = store.ancestors().find(|path| path.exists())?;
    let space = rustix::fs::statvfs(there).ok()?;
    let (mounted_at, kind, read_only) = mounted(there).unwrap_or_default();
    Some(Disk {
        mounted_at,
        kind,
        size: space.f_blocks * space.f_frsize,
        free: space.f_bavail * space.f_frsize,
        files: space.f_files,
        files_free: space.f_favail,
        read_only: read_only || space.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
        reserve: fs::metadata(store.join("reserve")).ok().map(|file| file.len()),
    })
}

/// Where the file system of a path is mounted, its kind, and whether it is read-only.
fn mounted(path: &Path) -> Option<(String, String, bool)> {
    let path = path.canonicalize().ok()?;
    mount_of(&fs::read_to_string("/proc/self/mountinfo").ok()?, &path)
}

/// By the lines of `/proc/self/mountinfo`: of the mounts that hold the path, the last one covers the others.
fn mount_of(mounts: &str, path: &Path) -> Option<(String, String, bool)> {
    let read = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let at = left.split(' ').nth(4)?.replace("\\040", " ");
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        // That of the file system: a mount alone is read-only for this program where it is not for the daemon.
        let read_only = options.split(',').any(|option| option == "ro");
        path.starts_with(&at).then(|| (at, kind.to_owned(), read_only))
    };
    mounts.lines().filter_map(read).enumerate().max_by_key(|(nth, (at, ..))| (at.len(), *nth)).map(|(_, mount)| mount)
}

fn mark(path: &Path, store: &Path) -> MarkFacts {
    let file = fs::metadata(path).ok();
    let device = |path: &Path| path.ancestors().find_map(|path| fs::metadata(path).ok()).map(|file| file.dev());
    let written = file.map(|file| Timestamp::from_millis(file.mtime() * 1_000 + file.mtime_nsec() / 1_000_000));
    MarkFacts { path: path.to_owned(), same_disk: device(path) == device(store), written }
}

/// The disk that a device number belongs to, the whole of it, by the kernel's tree at `sys`.
fn device(sys: &Path, number: u64) -> Option<Device> {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let place = sys.join(format!("dev/block/{major}:{minor}")).canonicalize().ok()?;
    // A partition lies below its disk.
    let disk = if place.join("partition").exists() { place.parent()? } else { &place };
    let text = |name: &str| fs::read_to_string(disk.join(name)).ok();
    // Sizes and counts are in sectors of 512 bytes, whatever the device has (Documentation/block/stat.rst).
    let sectors = text("size")?.trim().parse::<u64>().ok()?;
    let written = text("stat").and_then(|stat| stat.split_whitespace().nth(6)?.parse::<u64>().ok());
    let life = text("device/life_time").and_then(|life| {
        let mut tenths = life.split_whitespace().map(|word| u8::from_str_radix(word.trim_start_matches("0x"), 16).ok());
        Some([tenths.next()??, tenths.next()??])
    });
    Some(Device {
        name: disk.file_name()?.to_string_lossy().into_owned(),
        bytes: sectors * 512,
        written: written.unwrap_or(0) * 512,
        life,
    })
}

fn ports(setup: &Setup, daemon: Option<u32>) -> Vec<PortFacts> {
    let serial = setup.lines.iter().filter_map(|line| Some((line, line.device.as_ref()?)));
    let plugged = plugged();
    let user = daemon.and_then(user_of).or_else(|| fs::metadata(&setup.store).ok().map(|store| store.uid()));
    let user = user.unwrap_or_else(|| rustix::process::geteuid().as_raw());
    serial.map(|(line, device)| port(&line.name, device, &plugged, (user, daemon))).collect()
}

fn port(line: &str, device: &Path, plugged: &[(PathBuf, PathBuf)], (user, daemon): (u32, Option<u32>)) -> PortFacts {
    let real = device.canonicalize().ok();
    let file = fs::metadata(device).ok();
    let names = |path: &str, number: u32| {
        let table = fs::read_to_string(path).unwrap_or_default();
        named(&table, number).unwrap_or_else(|| number.to_string())
    };
    let name = names("/etc/passwd", user);
    let (gid, mode, owner) = file.as_ref().map_or((0, 0, 0), |file| (file.gid(), file.mode(), file.uid()));
    let groups = groups_of(user, &name, daemon);
    let may_open = user == 0
        || (owner == user && mode & 0o600 == 0o600)
        || (groups.contains(&gid) && mode & 0o060 == 0o060)
        || mode & 0o006 == 0o006;
    let by_id = plugged.iter().find(|(_, target)| Some(target) == real.as_ref()).map(|(name, _)| name.clone());
    PortFacts {
        line: line.to_owned(),
        device: device.to_owned(),
        is_there: file.is_some(),
        is_port: file.as_ref().is_some_and(|file| file.file_type().is_char_device()),
        group: names("/etc/group", gid),
        user: name,
        may_open: file.is_none() || may_open,
        used_by: real.map(|real| used_by(&real, daemon)).unwrap_or_default(),
        by_id: by_id.filter(|name| name != device),
        plugged: plugged.iter().map(|(name, _)| name.clone()).collect(),
        opened: None,
    }
}

/// The adapters' names that stay, each with the port that it leads to.
fn plugged() -> Vec<(PathBuf, PathBuf)> {
    let names = fs::read_dir("/dev/serial/by-id").into_iter().flatten().flatten();
    let mut all: Vec<_> = names.filter_map(|name| Some((name.path(), name.path().canonicalize().ok()?))).collect();
    all.sort();
    all
}

/// The name of a number in `/etc/passwd` or `/etc/group`.
pub(super) fn named(table: &str, number: u32) -> Option<String> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse::<u32>().ok()? == number).then(|| name.to_owned())
    })
}

fn user_of(process: u32) -> Option<u32> {
    fs::metadata(format!("/proc/{process}")).ok().map(|it| it.uid())
}

/// Those of a process that runs, as it has no other; else those that a new one of this user would have.
pub(super) fn groups_of(user: u32, name: &str, process: Option<u32>) -> BTreeSet<u32> {
    let status = process.and_then(|process| fs::read_to_string(format!("/proc/{process}/status")).ok());
    let of = |status: &str, key: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    };
    if let Some(status) = status {
        return of(&status, "Groups:").into_iter().chain(of(&status, "Gid:")).collect();
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let first = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':').skip(2);
        let (uid, gid) = (fields.next()?.parse::<u32>().ok()?, fields.next()?.parse::<u32>().ok()?);
        (uid == user).then_some(gid)
    });
    let table = fs::read_to_string("/etc/group").unwrap_or_default();
    let more = table.lines().filter_map(|line| {
        let mut fields = line.split(':').skip(2);
        let (gid, members) = (fields.next()?.parse::<u32>().ok()?, fields.next()?);
        members.split(',').any(|member| member == name).then_some(gid)
    });
    first.chain(more).collect()
}

/// The other programs that have a file open, as far as this user may see.
fn used_by(file: &Path, daemon: Option<u32>) -> Vec<String> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if Some(pid) == daemon || pid == std::process::id() {
            continue;
        }
        let mut open = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        if open.any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == file)) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push(format!("{pid} ({})", name.trim()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_that_holds_a_path_is_its_own() {
        let mounts = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
            30 22 0:5 / /var ro,nosuid - ext4 /dev/mmcblk0p2 rw,x\n\
            31 22 0:6 / /va rw - tmpfs tmpfs rw\n\
            32 30 0:7 / /var/lib/my\\040disk rw - f2fs /dev/sda1 ro,errors\n";
        let of = |path: &str| mount_of(mounts, Path::new(path)).unwrap();
        assert_eq!(of("/etc"), ("/".to_owned(), "ext4".to_owned(), false));
        assert_eq!(of("/var/lib/x"), ("/var".to_owned(), "ext4".to_owned(), false), "read-only for this program alone");
        assert_eq!(of("/var/lib/my disk/x"), ("/var/lib/my disk".to_owned(), "f2fs".to_owned(), true));
    }

    #[test]
    fn an_emmc_is_read_whole_below_its_partition() {
        let sys = tempfile::tempdir().unwrap();
        let disk = sys.path().join("devices/mmc0/block/mmcblk0");
        let write = |path: &Path, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(&disk.join("size"), "15269888\n");
        write(&disk.join("stat"), " 1 2 3 4 5 6 2000 8 9 10 11\n");
        write(&disk.join("device/life_time"), "0x02 0x0B\n");
        write(&disk.join("mmcblk0p2/partition"), "2\n");
        fs::create_dir_all(sys.path().join("dev/block")).unwrap();
        std::os::unix::fs::symlink(disk.join("mmcblk0p2"), sys.path().join("dev/block/179:2")).unwrap();
        let found = device(sys.path(), rustix::fs::makedev(179, 2)).unwrap();
        let (bytes, written) = (15_269_888 * 512, 2_000 * 512);
        assert_eq!(found, Device { name: "mmcblk0".to_owned(), bytes, written, life: Some([2, 11]) });
        assert_eq!(device(sys.path(), rustix::fs::makedev(179, 3)), None);
    }

    #[test]
    fn tables_of_users_and_groups_are_read() {
        let table = "root:x:0:0::/:/bin/sh\nmeterseal:x:998:997::/:/nologin\n";
        assert_eq!((named(table, 998).as_deref(), named(table, 5)), (Some("meterseal"), None));
    }

    #[test]
    fn what_this_process_has_open_is_seen_by_another() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("port");
        fs::write(&file, "").unwrap();
        let mut holder =
            std::process::Command::new("sleep").arg("60").stdin(fs::File::open(&file).unwrap()).spawn().unwrap();
        let pid = holder.id();
        let seen = used_by(&file, None);
        let of_daemon = used_by(&file, Some(pid));
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert!(seen.len() == 1 && seen[0].starts_with(&format!("{pid} (")), "{seen:?}");
        assert!(of_daemon.is_empty());
    }
}
