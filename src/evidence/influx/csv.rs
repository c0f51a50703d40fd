//! CSV as RFC 4180 has it, record by record, from bytes cut anywhere.

/// What one record may hold.
const LONGEST: usize = 16 << 20;

/// A line of a CSV text.
#[derive(Default)]
pub struct Record {
    /// The cells, each with a line feed after it, so that two halves of a character never meet.
    bytes: Vec<u8>,
    /// Where each cell ends.
    ends: Vec<usize>,
}

impl Record {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn cell(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before] + 1);
        &self.bytes[start..self.ends[at]]
    }

    /// All cells as text, if they are.
    pub fn is_text(&self) -> bool {
        std::str::from_utf8(&self.bytes).is_ok()
    }

    /// An empty line.
    pub fn is_blank(&self) -> bool {
        self.bytes == b"\n"
    }

    fn end_cell(&mut self) {
        self.ends.push(self.bytes.len());
        self.bytes.push(b'\n');
    }
}

#[derive(Clone, Copy, Default, PartialEq)]
enum At {
    #[default]
    CellStart,
    Plain,
    Quoted,
    /// After a quote within quotes: the cell's end, or the first of two.
    Quote,
    CarriageReturn,
}

#[derive(Default)]
pub struct Csv {
    record: Record,
    at: At,
}

/// Why a text is no CSV.
pub type Fault = &'static str;

impl Csv {
    /// Calls `take` with each record that ends within `bytes`.
    pub fn feed<E>(
        &mut self,
        bytes: &[u8],
        faulty: impl Fn(Fault) -> E,
        take: &mut impl FnMut(&Record) -> Result<(), E>,
    ) -> Result<(), E> {
        for byte in bytes {
            let cells = &mut self.record;
            self.at = match (self.at, byte) {
                (At::CarriageReturn, b'\n') => {
                    cells.end_cell();
                    take(cells)?;
                    cells.bytes.clear();
                    cells.ends.clear();
                    At::CellStart
                }
                (At::CarriageReturn, _) => return Err(faulty("a carriage return without a line feed")),
                (At::CellStart, b'"') => At::Quoted,
                (At::Quoted, b'"') => At::Quote,
                (At::Quote, b'"') => {
                    cells.bytes.push(b'"');
                    At::Quoted
                }
                (At::Quoted, byte) => {
                    cells.bytes.push(*byte);
                    At::Quoted
                }
                (_, b',') => {
                    cells.end_cell();
                    At::CellStart
                }
                (_, b'\r') => At::CarriageReturn,
                (At::Quote, _) => return Err(faulty("more after a closing quote")),
                (_, b'"') => return Err(faulty("a quote in a cell that does not begin with one")),
                (_, b'\n') => return Err(faulty("a line feed without a carriage return")),
                (_, byte) => {
                    cells.bytes.push(*byte);
                    At::Plain
                }
            };
            if self.record.bytes.len() > LONGEST {
                return Err(faulty("a record without an end"));
            }
        }
        Ok(())
    }

    /// Whether the text ended where a record does.
    pub fn is_between_records(&self) -> bool {
        self.at == At::CellStart && self.record.ends.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn records(pieces: &[&[u8]]) -> Result<(Vec<Vec<String>>, bool), Fault> {
        let (mut csv, mut read) = (Csv::default(), Vec::new());
        for piece in pieces {
            csv.feed(piece, |fault| fault, &mut |record| {
                assert!(record.is_text());
                let cells = 0..record.len();
                let text = |at| String::from_utf8(record.cell(at).to_vec()).unwrap();
                assert_eq!(record.is_blank(), record.len() == 1 && record.cell(0).is_empty());
                read.push(cells.map(text).collect());
                Ok(())
            })?;
        }
        Ok((read, csv.is_between_records()))
    }

    fn written(cells: &[Vec<String>]) -> String {
        let quoted = |cell: &String| {
            let needs = cell.contains(['"', ',', '\r', '\n']);
            if needs { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.clone() }
        };
        cells.iter().map(|line| line.iter().map(quoted).collect::<Vec<_>>().join(",") + "\r\n").collect()
    }

    #[test]
    fn what_is_no_csv_is_refused() {
        for bad in ["a\"b\r\n", "\"a\"b\r\n", "a\n", "a\rb", "\"a\"\n"] {
            assert!(records(&[bad.as_bytes()]).is_err(), "{bad:?}");
        }
        for short in ["a", "a,", "a\r", "\"a", "\"a\"", "\"a\r\n"] {
            assert!(!records(&[short.as_bytes()]).unwrap().1, "{short:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_utf_8_are_seen_within_their_cell() {
        for bad in [&b"\xff\r\n"[..], b"\xc3,\xa4\r\n"] {
            let mut csv = Csv::default();
            csv.feed(bad, |fault| panic!("{fault}"), &mut |record| {
                assert!(!record.is_text());
                Ok(())
            })
            .unwrap();
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_however_it_is_cut(
            cells in prop::collection::vec(prop::collection::vec("[a-c,\"\r\nä]{0,4}", 1..4), 0..4),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let text = written(&cells);
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &text.as_bytes()[cut[0]..cut[1]]).collect();
            prop_assert_eq!(records(&pieces).unwrap(), (cells, true));
        }
    }
}
