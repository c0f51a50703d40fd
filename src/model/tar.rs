//! Headers of tar archives (ustar), fixed but for name and size, so that the same files make the same archive.

use std::ops::Range;

pub const HEADER: usize = 512;
/// Where a header's checksum stands.
const CHECKSUM: Range<usize> = 148..156;

/// The header of `<id>/<name>` (docs/evidence-format.md, "The archive"); `None` if name or size do not fit into one.
pub fn header(id: &str, name: &str, bytes: u64) -> Option<[u8; HEADER]> {
    if bytes >= OCTAL { None } else { of_file(&format!("{id}/{name}"), "0000644", bytes) }
}

/// Sizes from here on do not fit into octal digits.
const OCTAL: u64 = 1 << 33;

/// The header of a file for its owner alone, of any size: a large one is written in binary, as GNU tar and others do.
pub fn private_header(path: &str, bytes: u64) -> Option<[u8; HEADER]> {
    of_file(path, "0000600", bytes)
}

fn of_file(path: &str, mode: &str, bytes: u64) -> Option<[u8; HEADER]> {
    if path.len() > 100 {
        return None;
    }
    let mut header = [0; HEADER];
    if bytes >= OCTAL {
        header[124] = 0x80;
        header[128..136].copy_from_slice(&bytes.to_be_bytes());
    }
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, path);
    put(100, mode);
    put(108, "0000000");
    put(116, "0000000");
    if bytes < OCTAL {
        put(124, &format!("{bytes:011o}"));
    }
    put(136, "00000000000");
    put(156, "0");
    put(257, "ustar\x0000");
    put(329, "0000000");
    put(337, "0000000");
    let sum = sum(&header);
    header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Some(header)
}

/// Whether a header bears its own checksum, as one does that any program wrote and nothing changed since.
pub fn has_its_checksum(header: &[u8; HEADER]) -> bool {
    let text = header[CHECKSUM].iter().filter(|byte| byte.is_ascii_digit());
    let found = text.fold(0_u32, |sum, digit| sum << 3 | u32::from(digit - b'0'));
    found == sum(header)
}

/// Path and size that a header names.
pub fn path_and_bytes(header: &[u8; HEADER]) -> Option<(&str, u64)> {
    let path = header[..100].split(|byte| *byte == 0).next()?;
    let bytes = if header[124] == 0x80 {
        u64::from_be_bytes(header[128..136].try_into().ok()?)
    } else {
        u64::from_str_radix(str::from_utf8(&header[124..135]).ok()?, 8).ok()?
    };
    Some((str::from_utf8(path).ok()?, bytes))
}

/// The sum is taken with blanks in its own place.
fn sum(header: &[u8; HEADER]) -> u32 {
    let others = header.iter().enumerate().filter(|(at, _)| !CHECKSUM.contains(at));
    others.map(|(_, byte)| u32::from(*byte)).sum::<u32>() + u32::from(b' ') * 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_read_back_at_any_size() {
        for bytes in [0, 511, OCTAL - 1, OCTAL, u64::MAX] {
            let header = private_header("a/b.db", bytes).unwrap();
            assert!(has_its_checksum(&header));
            assert_eq!(path_and_bytes(&header), Some(("a/b.db", bytes)));
        }
        assert!(header("a", "b", OCTAL).is_none() && private_header(&"a".repeat(101), 0).is_none());
    }
}
