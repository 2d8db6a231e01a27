//! The outer form of a snapshot: the framing of Snappy and S2, a mark at the beginning and then blocks, each with its kind and
//! length. Walking over it finds bytes that are missing or too many without unpacking anything.

use anyhow::{bail, ensure};

/// The first frame: its kind, its length, and one of two names.
const MARK: u8 = 0xff;
const NAMES: [&[u8]; 2] = [b"S2sTwO", b"sNaPpY"];
/// Kinds up to this one hold data.
const LAST_DATA: u8 = 0x01;
/// Kinds from here on may be passed over.
const FIRST_SKIPPED: u8 = 0x80;
/// Kind and length.
const HEAD: usize = 4;

/// Where a walk over a snapshot is.
#[derive(Debug, Default)]
pub struct Frames {
    /// The head of a frame, or the name in the mark, as far as it has come.
    partial: Vec<u8>,
    /// Bytes of the frame that are still to come.
    rest: usize,
    marked: bool,
    in_mark: bool,
    data: u64,
}

impl Frames {
    /// Goes over the next bytes.
    ///
    /// # Errors
    /// Where no frame can stand there.
    pub fn read(&mut self, mut bytes: &[u8]) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            if self.rest > 0 {
                let now = self.rest.min(bytes.len());
                if self.in_mark {
                    self.partial.extend_from_slice(&bytes[..now]);
                }
                self.rest -= now;
                bytes = &bytes[now..];
                if self.rest == 0 && self.in_mark {
                    ensure!(NAMES.contains(&self.partial.as_slice()), "it is of an unknown kind");
                    (self.in_mark, self.marked) = (false, true);
                    self.partial.clear();
                }
                continue;
            }
            let now = (HEAD - self.partial.len()).min(bytes.len());
            self.partial.extend_from_slice(&bytes[..now]);
            bytes = &bytes[now..];
            if let [kind, a, b, c] = self.partial[..] {
                self.partial.clear();
                self.begin(kind, usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, kind: u8, length: usize) -> anyhow::Result<()> {
        match kind {
            MARK => {
                ensure!(length == NAMES[0].len(), "a mark of {length} bytes");
                self.in_mark = true;
            }
            _ if !self.marked => bail!("it does not begin with a mark"),
            0..=LAST_DATA => self.data += 1,
            FIRST_SKIPPED.. => {}
            _ => bail!("an unknown block of kind {kind:#04x}"),
        }
        self.rest = length;
        Ok(())
    }

    /// The walk is over.
    ///
    /// # Errors
    /// Where the last frame is not whole, or there was none.
    pub fn end(&self) -> anyhow::Result<()> {
        ensure!(
            self.rest == 0 && self.partial.is_empty(),
            "the snapshot ends in the middle of a block"
        );
        ensure!(self.data > 0, "the snapshot is empty");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Vec<u8> {
        let mut bytes = b"\xff\x06\x00\x00S2sTwO".to_vec();
        for (kind, length) in [(1u8, 300usize), (0x99, 5), (0, 70_000), (0xfe, 0)] {
            let length_bytes = u32::try_from(length).unwrap().to_le_bytes();
            bytes.extend([kind, length_bytes[0], length_bytes[1], length_bytes[2]]);
            bytes.extend(std::iter::repeat_n(7, length));
        }
        bytes
    }

    fn walk(bytes: &[u8], step: usize) -> anyhow::Result<()> {
        let mut frames = Frames::default();
        bytes.chunks(step).try_for_each(|chunk| frames.read(chunk))?;
        frames.end()
    }

    #[test]
    fn a_whole_one_is_whole_however_it_comes() {
        for step in [1, 3, 4, 7, 1000, 100_000] {
            walk(&snapshot(), step).unwrap();
        }
    }

    #[test]
    fn what_lacks_a_piece_is_not() {
        let whole = snapshot();
        assert!(walk(&[], 1).is_err() && walk(&whole[..10], 1).is_err());
        for cut in [1, 5, 13, 200, 70_000, whole.len() - 9] {
            assert!(walk(&whole[..cut], 100).is_err(), "cut at {cut}");
        }
        // A piece in the middle is missing.
        let mut gap = whole[..200].to_vec();
        gap.extend(&whole[260..]);
        assert!(walk(&gap, 100).is_err());
        assert!(walk(&whole[10..], 100).is_err());
    }
}
