use std::fs;
use std::process::Command;

use super::super::bundle::{Heading, Progress, Writer};
use super::super::manifest::{self, Kind, Manifest};
use super::super::slice::Slice;
use super::super::tar::{self, Archive};
use super::bundle::{finish, heading, write_some};
use crate::model::FieldValue;

/// A bundle of some parts in a folder of its id.
fn bundle() -> (tempfile::TempDir, Manifest) {
    let folder = tempfile::tempdir().unwrap();
    let writer = write_some(&folder.path().join("working"), &mut Progress::default(), 7, 95).unwrap();
    let manifest = finish(writer, folder.path());
    (folder, manifest)
}

fn whole(archive: &Archive) -> Vec<u8> {
    let mut bytes = vec![0xff; usize::try_from(archive.length()).unwrap()];
    assert_eq!(archive.read_at(0, &mut bytes).unwrap(), bytes.len());
    bytes
}

#[test]
fn any_stretch_of_an_archive_is_that_of_the_whole() {
    let (folder, manifest) = bundle();
    let archive = Archive::of(&folder.path().join("bundle"), &manifest).unwrap();
    let want = whole(&archive);
    for length in [1, 511, 512, 513, 5_000] {
        let mut got = Vec::new();
        let mut buffer = vec![0xff; length];
        loop {
            match archive.read_at(got.len() as u64, &mut buffer).unwrap() {
                0 => break,
                read => got.extend_from_slice(&buffer[..read]),
            }
        }
        assert!(got == want, "in steps of {length}");
    }
    assert_eq!(archive.read_at(u64::MAX, &mut [0; 10]).unwrap(), 0);
}

#[test]
fn other_programs_read_the_archive() {
    let (folder, manifest) = bundle();
    let archive = Archive::of(&folder.path().join("bundle"), &manifest).unwrap();
    fs::write(folder.path().join("bundle.tar"), whole(&archive)).unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let status = Command::new("tar").arg("-C").arg(&out).arg("-xf").arg(folder.path().join("bundle.tar")).status();
    assert!(status.unwrap().success());
    let listed = |folder| -> Vec<(std::ffi::OsString, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap()))
            .collect();
        files.sort();
        files
    };
    assert_eq!(listed(folder.path().join("bundle")), listed(out.join(manifest.id.to_string())));
}

#[test]
fn a_header_is_the_fixed_one_to_the_byte() {
    let header = tar::header("01ARZ3NDEKTSV4RRFFQ69G5FAV", manifest::FILE, 0o1234).unwrap();
    let mut want = [0; 512];
    want[..40].copy_from_slice(b"01ARZ3NDEKTSV4RRFFQ69G5FAV/manifest.json");
    let fixed = b"0000644\x000000000\x000000000\x0000000001234\x0000000000000\x00";
    want[100..148].copy_from_slice(fixed);
    want[148..157].copy_from_slice(b"015422\x00 0");
    want[257..265].copy_from_slice(b"ustar\x0000");
    want[329..345].copy_from_slice(b"0000000\x000000000\x00");
    assert_eq!(header.escape_ascii().to_string(), want.escape_ascii().to_string());
    assert_eq!(tar::header("id", "name", 1 << 33), None);
    assert!(tar::header("id", "name", (1 << 33) - 1).is_some());
    assert_eq!(tar::header("id", &"n".repeat(98), 0), None);
}

#[test]
fn a_part_that_is_shorter_than_its_manifest_says_is_told_by_name() {
    let (folder, manifest) = bundle();
    let path = folder.path().join("bundle").join(&manifest.parts[1].name);
    fs::write(&path, b"short").unwrap();
    let archive = Archive::of(&folder.path().join("bundle"), &manifest).unwrap();
    let mut bytes = vec![0; usize::try_from(archive.length()).unwrap()];
    let error = archive.read_at(0, &mut bytes).unwrap_err();
    assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
}

#[test]
fn a_part_of_a_whole_number_of_blocks_has_no_padding() {
    // Some length of the manifest must hit the border of a block: the program's name is as long as one likes.
    let folder = tempfile::tempdir().unwrap();
    let bundle_with = |program: String| {
        let mut writer = Writer::open(&folder.path().join("working"), Progress::default()).unwrap();
        let mut slice = Slice::new(0, 95);
        slice.push(super::row(0, "a", FieldValue::Bool(true))).unwrap();
        writer.append(&slice.sort().unwrap(), 0).unwrap();
        let bundle = folder.path().join(format!("bundle-{}", program.len()));
        let manifest = writer.finish(Heading { program, ..heading(Kind::Points) }, &bundle).unwrap();
        (Archive::of(&bundle, &manifest).unwrap(), fs::read(bundle.join(manifest::FILE)).unwrap().len())
    };
    let (shorter, length) = bundle_with(String::new());
    let (aligned, bytes) = bundle_with("x".repeat(length.next_multiple_of(512) - length));
    assert_eq!((bytes % 512, aligned.length()), (0, shorter.length()));
    let (longer, _) = bundle_with("x".repeat(length.next_multiple_of(512) - length + 1));
    assert_eq!(longer.length(), aligned.length() + 512);
    assert_eq!(whole(&aligned)[512 + bytes..][..27], *b"01ARZ3NDEKTSV4RRFFQ69G5FAV/");
}
