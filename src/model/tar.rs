//! Headers of tar archives (ustar), fixed but for name and size, so that the same files make the same archive.

use std::ops::Range;

pub const HEADER: usize = 512;
/// Where a header's checksum stands.
const CHECKSUM: Range<usize> = 148..156;

/// The header of `<id>/<name>` (docs/evidence-format.md, "The archive"); `None` if name or size do not fit into one.
pub fn header(id: &str, name: &str, bytes: u64) -> Option<[u8; HEADER]> {
    let path = format!("{id}/{name}");
    if path.len() > 100 || bytes >= 1 << 33 {
        return None;
    }
    let mut header = [0; HEADER];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, &path);
    put(100, "0000644");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{bytes:011o}"));
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

/// The sum is taken with blanks in its own place.
fn sum(header: &[u8; HEADER]) -> u32 {
    let others = header.iter().enumerate().filter(|(at, _)| !CHECKSUM.contains(at));
    others.map(|(_, byte)| u32::from(*byte)).sum::<u32>() + u32::from(b' ') * 8
}
