//! The disk: room, the reserve, how long the raw readings fit, and how long the flash lasts.

use super::Finding;
use super::facts::{Device, Disk, Facts, KeptFacts, Live, Machine, Setup};
use super::said::{ago, bytes, lasting, per_day};

const DISK: &str = "disk";
const WRITES: &str = "writes";

/// Below this the pace of raw readings says nothing.
const TELLING_MS: i64 = 3_600_000;
/// Flash that the kernel says nothing of: what small gateways have.
const FLASH_BYTES: u64 = 8_000_000_000;
/// What makers promise of eMMC with two or three bits in a cell.
const CYCLES: u64 = 3_000;
/// A page of flash is larger than what is written: it is said to write so many bytes for each that reaches the device.
const AMPLIFIED: u64 = 3;
/// The journal of the file system comes on top of what a program writes: measured on ext4 with a commit a second, 2.7 bytes
/// reached the device for each of ours. Both together, for each of ours.
const WRITTEN: u64 = 8;
/// Below this somebody had better do something.
const YEARS: u64 = 10;

pub fn disk(facts: &Facts) -> Vec<Finding> {
    let (Some(setup), machine) = (&facts.setup, &facts.machine) else { return Vec::new() };
    let (mut all, kept) = (Vec::new(), facts.kept.facts());
    if let Some(disk) = &machine.disk {
        all.push(room(disk, setup, kept));
        all.extend(reserve(disk, setup, kept));
        if let Some(finding) = files(disk) {
            all.push(finding);
        }
    } else {
        let found = format!("the file system of {} cannot be looked at", setup.store.display());
        all.push(Finding::broken(DISK, "", found, "mount the disk that holds it: `findmnt`, `sudo mount -a`"));
    }
    if let Some(kept) = kept {
        all.push(raw(kept, setup, machine.disk.as_ref(), facts));
    }
    all.extend(mark(facts));
    all
}

fn room(disk: &Disk, setup: &Setup, kept: Option<&KeptFacts>) -> Finding {
    let (store, at) = (setup.store.display(), &disk.mounted_at);
    let free = format!("{} of {} free for {store} ({} at {at})", bytes(disk.free), bytes(disk.size), disk.kind);
    if disk.read_only {
        let remedy = format!(
            "the kernel does that when a disk fails: `dmesg | grep -i -e ext4 -e mmc -e I/O`; then `sudo mount -o \
             remount,rw {at}`, and writing goes on by itself"
        );
        return Finding::broken(DISK, "", format!("mounted read-only: {free}"), remedy);
    }
    if let Some(why) = kept.and_then(|kept| kept.unwritable.as_ref()) {
        let remedy = format!("make room or see to the disk (`df -h {at}`, `dmesg`): writing goes on by itself then");
        return Finding::broken(DISK, "", format!("the store cannot write: {why}; {free}"), remedy);
    }
    let make_room = format!(
        "make room: `sudo du -xh --max-depth=2 {at} | sort -h | tail`, `sudo journalctl --vacuum-size=100M`, `sudo apt \
         clean`; or lower store.max_disk and reload"
    );
    if kept.is_some_and(|kept| kept.reserve_used) && disk.free < setup.reserve {
        let found = format!("full, readings go on in the reserve and stop with it: {free}");
        return Finding::broken(DISK, "", found, make_room);
    }
    if disk.free == 0 {
        return Finding::broken(DISK, "", format!("full: {free}"), make_room);
    }
    if disk.free < setup.reserve.max(disk.size / 50) {
        return Finding::look(DISK, "", format!("nearly full: {free}"), make_room);
    }
    Finding::ok(DISK, "", free)
}

fn reserve(disk: &Disk, setup: &Setup, kept: Option<&KeptFacts>) -> Option<Finding> {
    if setup.reserve == 0 {
        let found = "store.reserve is 0: on a full disk blocks and evidence stop as well".to_owned();
        return Some(Finding::look(DISK, "reserve", found, "set `store.reserve = \"64MB\"`, and reload"));
    }
    let held = disk.reserve?;
    if held >= setup.reserve {
        return Some(Finding::ok(DISK, "reserve", format!("{} are set aside for blocks and evidence", bytes(held))));
    }
    let used = kept.is_some_and(|kept| kept.reserve_used);
    let given = if used { "given up" } else { "not set aside yet" };
    let found = format!("{} of {} are {given}", bytes(setup.reserve - held), bytes(setup.reserve));
    let wanted = bytes(setup.reserve - held + setup.reserve / 4 + 4_000_000);
    Some(Finding::look(DISK, "reserve", found, format!("it is set aside again by itself once {wanted} are free")))
}

fn files(disk: &Disk) -> Option<Finding> {
    let at = &disk.mounted_at;
    // Some file systems count none.
    let scarce = disk.files > 0 && disk.files_free < disk.files / 100;
    let found = format!("{} of {} inodes are left at {at}", disk.files_free, disk.files);
    let remedy = format!("many small files fill it: `sudo du --inodes -x --max-depth=3 {at} | sort -n | tail`");
    scarce.then(|| match disk.files_free {
        0 => Finding::broken(DISK, "inodes", found, remedy),
        _ => Finding::look(DISK, "inodes", found, remedy),
    })
}

/// Whether the raw readings fit for as long as they shall be kept.
fn raw(kept: &KeptFacts, setup: &Setup, disk: Option<&Disk>, facts: &Facts) -> Finding {
    let (held, most) = (bytes(kept.raw_bytes), bytes(setup.max_disk));
    let keep = i64::try_from(setup.keep_raw_ms).unwrap_or(i64::MAX);
    let span = kept.oldest_raw.map(|oldest| facts.now.millis_since(oldest)).filter(|span| *span >= TELLING_MS);
    let pace = span.and_then(|span| per_day(kept.raw_bytes, span.unsigned_abs())).filter(|pace| *pace > 0);
    let Some(pace) = pace else {
        let found = format!("{held} of raw readings, of {most} that they may take; too few to tell how long they fit");
        return Finding::ok(DISK, "raw readings", found);
    };
    let days = setup.max_disk / pace;
    let fits = i64::try_from(days).unwrap_or(i64::MAX).saturating_mul(86_400_000);
    let kept_days = setup.keep_raw_ms / 86_400_000;
    let more = setup.max_disk.min(pace.saturating_mul(kept_days)).saturating_sub(kept.raw_bytes);
    let found = format!("{held} of raw readings, {} a day: {most} hold {days} days of them", bytes(pace));
    if fits < keep {
        let remedy = format!(
            "they shall be kept for {}: set `store.max_disk` to {} at least, ask meters less often, or lower \
             `store.keep_raw`; blocks stay in any case",
            lasting(keep),
            bytes(pace.saturating_mul(kept_days))
        );
        return Finding::look(DISK, "raw readings", found, remedy);
    }
    if let Some(disk) = disk.filter(|disk| disk.free < more) {
        let found = format!("{found}; {} more are to come, and {} are free", bytes(more), bytes(disk.free));
        let remedy = "make room, or lower `store.max_disk` below what is free, so that the oldest readings go before \
                      the disk is full";
        return Finding::look(DISK, "raw readings", found, remedy);
    }
    Finding::ok(DISK, "raw readings", found)
}

/// The mark by which a store that went back in time is noticed.
fn mark(facts: &Facts) -> Option<Finding> {
    let mark = facts.machine.mark.as_ref()?;
    let at = mark.path.display();
    let Some(written) = mark.written else {
        let found = format!("{at} is not there: a store that went back in time is not noticed here");
        let folder = mark.path.parent().unwrap_or(&mark.path).display();
        let remedy =
            format!("let the daemon write to {folder}, which must be there: it makes the mark at its next checkpoint");
        return Some(Finding::look(DISK, "mark", found, remedy));
    };
    let place =
        if mark.same_disk { "on the same file system as the store" } else { "on another file system than the store" };
    Some(Finding::ok(DISK, "mark", format!("{at}, {place}, written {}", ago(written, facts.now))))
}

/// How long the flash lasts at the present pace.
pub fn writes(facts: &Facts) -> Vec<Finding> {
    let Machine { device, uptime_ms, .. } = &facts.machine;
    let mut all = Vec::new();
    if let Some(live) = facts.daemon.live() {
        all.push(pace(live, device.as_ref(), facts.setup.as_ref()));
    }
    if let Some(device) = device {
        if let Some(day) = per_day(device.written, *uptime_ms).filter(|_| device.written > 0) {
            all.push(of_device(device, day));
        }
        if let Some(life) = device.life {
            all.push(worn(device, life));
        }
    }
    all
}

/// All that reaches the device, by its own count.
fn of_device(device: &Device, day: u64) -> Finding {
    let found = format!("{} a day to {} by all programs since the machine started", bytes(day), device.name);
    // Of other kinds nobody knows the cycles.
    if !device.name.starts_with("mmcblk") {
        return Finding::ok(WRITES, &device.name, found);
    }
    let years = years(device.bytes, day, AMPLIFIED);
    let found = format!("{found}: it lasts {} at that pace", told(years));
    if years >= YEARS {
        return Finding::ok(WRITES, &device.name, found);
    }
    let remedy = "if most of it is ours, see above; else find who writes: `sudo iotop -aoP`; the journal may stay in memory \
                  (`Storage=volatile` in /etc/systemd/journald.conf)";
    Finding::look(WRITES, &device.name, found, remedy)
}

/// How long a device of this size lasts when so much is written in a day, and so many bytes of flash for each.
fn years(size: u64, day: u64, flash: u64) -> u64 {
    size.saturating_mul(CYCLES) / day.saturating_mul(flash).max(1) / 365
}

fn told(years: u64) -> String {
    if years > 100 { "more than 100 years".to_owned() } else { format!("{years} years") }
}

fn pace(live: &Live, device: Option<&Device>, setup: Option<&Setup>) -> Finding {
    let Some(day) = per_day(live.written, live.uptime_ms).filter(|_| live.uptime_ms >= 60_000) else {
        return Finding::ok(WRITES, "", "the daemon runs for less than a minute: too early to tell".to_owned());
    };
    let (size, whose) = match device {
        Some(device) if device.bytes > 0 => (device.bytes, device.name.as_str()),
        _ => (FLASH_BYTES, "an eMMC"),
    };
    let years = years(size, day, WRITTEN);
    let lasts = told(years);
    let since = lasting(i64::try_from(live.uptime_ms).unwrap_or(i64::MAX));
    let found = format!(
        "{} a day by this program (over {since}): {whose} of {} lasts {lasts}, taking {CYCLES} cycles and {WRITTEN} \
         bytes of flash for each, with the journal of the file system",
        bytes(day),
        bytes(size)
    );
    if years >= YEARS {
        return Finding::ok(WRITES, "", found);
    }
    let often = setup.map_or(0, |setup| setup.commit_every_ms);
    let remedy = if often < 10_000 {
        "set `store.commit_every = \"10s\"`, and reload: a power cut takes up to 10 s of readings then, and half as much \
         is written; or ask meters less often"
    } else {
        "ask meters less often (`interval`), or mount a disk that bears more at `store.path`"
    };
    Finding::look(WRITES, "", found, remedy)
}

/// What an eMMC says of its own life: the worse of its two kinds of cells.
fn worn(device: &Device, life: [u8; 2]) -> Finding {
    let name = format!("{} life", device.name);
    let worst = life[0].max(life[1]);
    let remedy =
        "replace the device, or its eMMC, before it fails; `meterseal upstream` shows what is elsewhere already";
    match worst {
        0 => Finding::ok(WRITES, &name, "it does not say how worn it is".to_owned()),
        0x0b.. => Finding::broken(WRITES, &name, "by its own word its life is over".to_owned(), remedy),
        tenths => {
            let found = format!("by its own word {} to {} % of its life are used", (tenths - 1) * 10, tenths * 10);
            if tenths >= 8 { Finding::look(WRITES, &name, found, remedy) } else { Finding::ok(WRITES, &name, found) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State::{Broken, Look, Ok};
    use crate::doctor::tests::{NOW, healthy, kept, live, told};

    fn on(change: impl FnOnce(&mut Disk)) -> Facts {
        let mut facts = healthy();
        change(facts.machine.disk.as_mut().unwrap());
        facts
    }

    #[test]
    fn room_is_told_and_what_takes_it() {
        let (state, text) = told(&healthy(), "disk", "");
        assert_eq!((state, text.as_str()), (Ok, "5.0 GB of 8.0 GB free for /var/lib/meterseal (ext4 at /)"));
        let (state, text) = told(&on(|disk| disk.free = 100_000_000), "disk", "");
        assert!(
            state == Look && text.starts_with("nearly full: 100 MB of 8.0 GB") && text.contains("du -xh"),
            "{text}"
        );
        let (state, text) = told(&on(|disk| disk.free = 0), "disk", "");
        assert!(state == Broken && text.starts_with("full: 0 B of 8.0 GB free for"), "{text}");
        let mut full = on(|disk| (disk.free, disk.reserve) = (4_096, Some(16_000_000)));
        kept(&mut full).reserve_used = true;
        let (state, text) = told(&full, "disk", "");
        assert!(state == Broken && text.starts_with("full, readings go on in the reserve"), "{text}");
        let (state, text) = told(&full, "disk", "reserve");
        assert!(
            state == Look && text.starts_with("48 MB of 64 MB are given up -> ") && text.contains("68 MB"),
            "{text}"
        );
        kept(&mut full).unwritable = Some("the disk is full".to_owned());
        let (state, text) = told(&full, "disk", "");
        assert!(
            state == Broken && text.starts_with("the store cannot write: the disk is full; 4.0 kB of 8.0 GB"),
            "{text}"
        );
        let (state, text) = told(&on(|disk| disk.read_only = true), "disk", "");
        assert!(state == Broken && text.contains("mount -o remount,rw /`,"), "{text}");
        let mut gone = healthy();
        gone.machine.disk = None;
        let (state, text) = told(&gone, "disk", "");
        assert!(state == Broken && text.contains("cannot be looked at -> mount the disk"), "{text}");
    }

    #[test]
    fn inodes_and_a_reserve_that_is_none_are_told() {
        assert!(disk(&healthy()).iter().all(|finding| finding.subject != "inodes"));
        assert_eq!(told(&on(|disk| disk.files_free = 9), "disk", "inodes").0, Look);
        let (state, text) = told(&on(|disk| disk.files_free = 0), "disk", "inodes");
        assert!(state == Broken && text.contains("du --inodes"), "{text}");
        assert!(disk(&on(|disk| (disk.files, disk.files_free) = (0, 0))).iter().all(|found| found.subject != "inodes"));
        assert_eq!(told(&on(|disk| disk.reserve = Some(0)), "disk", "reserve").0, Look);
        let mut none = healthy();
        none.setup.as_mut().unwrap().reserve = 0;
        assert!(told(&none, "disk", "reserve").1.contains("store.reserve = \"64MB\""));
    }

    #[test]
    fn raw_readings_that_do_not_fit_for_their_time_are_told_with_what_they_need() {
        let (state, text) = told(&healthy(), "disk", "raw readings");
        assert_eq!((state, text.as_str()), (Ok, "10 MB of raw readings, 10 MB a day: 2.0 GB hold 200 days of them"));
        let mut many = healthy();
        kept(&mut many).raw_bytes = 100_000_000;
        let (state, text) = told(&many, "disk", "raw readings");
        assert!(state == Look && text.contains("hold 20 days of them -> "), "{text}");
        assert!(text.contains("kept for 90 days: set `store.max_disk` to 9.0 GB at least"), "{text}");
        let mut tight = on(|disk| disk.free = 700_000_000);
        let (state, text) = told(&tight, "disk", "raw readings");
        assert!(state == Look && text.contains("890 MB more are to come, and 700 MB are free"), "{text}");
        kept(&mut tight).oldest_raw = Some(NOW.plus_millis(-60_000));
        assert_eq!(told(&tight, "disk", "raw readings").0, Ok, "a minute tells nothing");
    }

    #[test]
    fn a_mark_that_is_missing_is_told() {
        let mut facts = healthy();
        assert!(told(&facts, "disk", "mark").1.contains("on the same file system as the store, written 0 s ago"));
        facts.machine.mark.as_mut().unwrap().written = None;
        let (state, text) = told(&facts, "disk", "mark");
        assert!(state == Look && text.contains("let the daemon write to /var/lib/meterseal-mark,"), "{text}");
    }

    #[test]
    fn bytes_a_day_become_years_of_flash() {
        let mut facts = healthy();
        let (state, text) = told(&facts, "writes", "");
        assert_eq!(state, Ok);
        assert!(
            text.starts_with("100 MB a day by this program (over 24 h): mmcblk0 of 8.0 GB lasts 82 years"),
            "{text}"
        );
        // 8 GB × 3000 / (4 GB × 8) / 365
        live(&mut facts).written = 4_000_000_000;
        let (state, text) = told(&facts, "writes", "");
        assert!(state == Look && text.contains("lasts 2 years") && text.contains("commit_every = \"10s\""), "{text}");
        facts.setup.as_mut().unwrap().commit_every_ms = 10_000;
        assert!(told(&facts, "writes", "").1.contains("ask meters less often"));
        facts.machine.device = None;
        assert!(told(&facts, "writes", "").1.contains("an eMMC of 8.0 GB"));
        live(&mut facts).uptime_ms = 5_000;
        assert_eq!(told(&facts, "writes", "").0, Ok);
    }

    #[test]
    fn what_the_device_says_of_its_life_is_believed() {
        let of = |life: [u8; 2]| {
            let mut facts = healthy();
            facts.machine.device.as_mut().unwrap().life = Some(life);
            told(&facts, "writes", "mmcblk0 life")
        };
        assert_eq!(of([1, 2]), (Ok, "by its own word 10 to 20 % of its life are used".to_owned()));
        assert!(of([8, 1]).1.contains("70 to 80 %") && of([8, 1]).0 == Look);
        assert!(of([1, 0x0b]).0 == Broken && of([1, 0x0b]).1.contains("its life is over -> replace"));
        assert_eq!(of([0, 0]).0, Ok);
    }

    #[test]
    fn what_others_write_wears_the_flash_as_well() {
        let mut facts = healthy();
        let (state, text) = told(&facts, "writes", "mmcblk0");
        assert!(state == Ok && text.starts_with("100 MB a day to mmcblk0 by all programs"), "{text}");
        assert!(text.ends_with("it lasts more than 100 years at that pace"), "{text}");
        facts.machine.device.as_mut().unwrap().written = 100_000_000_000;
        let (state, text) = told(&facts, "writes", "mmcblk0");
        assert!(
            state == Look && text.contains("it lasts 2 years at that pace -> ") && text.contains("iotop"),
            "{text}"
        );
        facts.machine.device.as_mut().unwrap().name = "sda".to_owned();
        assert_eq!(told(&facts, "writes", "sda").0, Ok);
    }
}
