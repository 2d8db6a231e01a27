//! Reads the outer form of a snapshot: the framing of Snappy and S2, which is a mark at the beginning and then blocks, each with its
//! kind and length. A walk over it finds missing and surplus bytes; [`Block::unpack`] unpacks a block.

use anyhow::{bail, ensure};
use bytes::{Bytes, BytesMut};

use super::s2;

/// The first frame: its kind, its length, and one of two names.
const MARK: u8 = 0xff;
const NAMES: [&[u8]; 2] = [b"S2sTwO", b"sNaPpY"];
/// The kinds that hold data.
const PACKED: u8 = 0x00;
const PLAIN: u8 = 0x01;
/// Kinds from here on may be passed over.
const FIRST_SKIPPED: u8 = 0x80;
/// Kind and length. The length has three bytes, so no frame, nor the buffered part of one, is longer than 16 MiB.
const HEAD: usize = 4;
/// Bytes of the checksum before the data of a block.
const CHECKSUM: usize = 4;

/// A walk over a snapshot.
#[derive(Debug, Default)]
pub struct Frames {
    /// The received part of the incomplete frame.
    buffer: BytesMut,
    marked: bool,
    blocks: u64,
}

/// A block of data.
#[derive(Debug)]
pub struct Block {
    is_packed: bool,
    body: Bytes,
}

impl Frames {
    /// Takes the next bytes; [`Self::next_block`] returns the blocks in them.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete block; none until more bytes are fed.
    ///
    /// # Errors
    /// If the bytes are not a frame.
    pub fn next_block(&mut self) -> anyhow::Result<Option<Block>> {
        while let [kind, a, b, c, ..] = self.buffer[..] {
            let length = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
            match kind {
                MARK => ensure!(length == NAMES[0].len(), "a mark of {length} bytes"),
                _ if !self.marked => bail!("it does not begin with a mark"),
                PACKED | PLAIN | FIRST_SKIPPED.. => {}
                _ => bail!("an unknown block of kind {kind:#04x}"),
            }
            if self.buffer.len() < HEAD + length {
                return Ok(None);
            }
            let body = self.buffer.split_to(HEAD + length).freeze().slice(HEAD..);
            match kind {
                MARK => {
                    ensure!(NAMES.contains(&&*body), "it is of an unknown kind");
                    self.marked = true;
                }
                PACKED | PLAIN => {
                    self.blocks += 1;
                    let is_packed = kind == PACKED;
                    return Ok(Some(Block { is_packed, body }));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Ends the walk.
    ///
    /// # Errors
    /// If the last frame is incomplete, or there was none.
    pub fn end(&self) -> anyhow::Result<()> {
        ensure!(self.buffer.is_empty(), "the snapshot ends in the middle of a block");
        ensure!(self.blocks > 0, "the snapshot is empty");
        Ok(())
    }
}

impl Block {
    /// Size of the block as received, without its head.
    pub fn packed_len(&self) -> u64 {
        self.body.len() as u64
    }

    /// Replaces the content of `out` by the block's content: at most 4 MiB.
    ///
    /// # Errors
    /// If the block is broken.
    pub fn unpack(&self, out: &mut Vec<u8>) -> anyhow::Result<()> {
        ensure!(self.body.len() >= CHECKSUM, "a block without a checksum");
        let (checksum, data) = self.body.split_at(CHECKSUM);
        if self.is_packed {
            s2::unpack(data, out)?;
        } else {
            ensure!(data.len() <= s2::MAX_BLOCK, "a block of {} bytes", data.len());
            out.clear();
            out.extend_from_slice(data);
        }
        ensure!(
            checksum == s2::checksum(out),
            "the content of a block does not match its checksum"
        );
        Ok(())
    }
}

/// The first bytes of a snapshot.
pub fn begin(out: &mut Vec<u8>) {
    put_head(out, MARK, NAMES[0].len());
    out.extend_from_slice(NAMES[0]);
}

/// Appends an unpacked block. `data` is at most 4 MiB.
pub fn put_plain(out: &mut Vec<u8>, data: &[u8]) {
    debug_assert!(data.len() <= s2::MAX_BLOCK);
    put_head(out, PLAIN, CHECKSUM + data.len());
    out.extend_from_slice(&s2::checksum(data));
    out.extend_from_slice(data);
}

fn put_head(out: &mut Vec<u8>, kind: u8, length: usize) {
    let [a, b, c, ..] = length.to_le_bytes();
    out.extend_from_slice(&[kind, a, b, c]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Vec<u8> {
        let mut bytes = Vec::new();
        begin(&mut bytes);
        for (kind, length) in [(PACKED, 300), (0x99, 5), (PLAIN, 70_000), (0xfe, 0)] {
            put_head(&mut bytes, kind, length);
            bytes.extend(std::iter::repeat_n(7, length));
        }
        bytes
    }

    fn walk(bytes: &[u8], step: usize) -> anyhow::Result<Vec<usize>> {
        let (mut frames, mut blocks) = (Frames::default(), Vec::new());
        for chunk in bytes.chunks(step) {
            frames.feed(chunk);
            while let Some(block) = frames.next_block()? {
                blocks.push(block.body.len());
            }
        }
        frames.end()?;
        Ok(blocks)
    }

    #[test]
    fn a_complete_snapshot_is_recognised_in_any_chunks() {
        for step in [1, 3, 4, 7, 1000, 100_000] {
            assert_eq!(walk(&snapshot(), step).unwrap(), [300, 70_000]);
        }
    }

    #[test]
    fn an_incomplete_snapshot_is_refused() {
        let whole = snapshot();
        assert!(walk(&[], 1).is_err() && walk(&whole[..10], 1).is_err());
        for cut in [1, 5, 13, 200, 70_000, whole.len() - 9] {
            assert!(walk(&whole[..cut], 100).is_err(), "cut at {cut}");
        }
        // Bytes in the middle are missing.
        let mut gap = whole[..200].to_vec();
        gap.extend(&whole[260..]);
        assert!(walk(&gap, 100).is_err());
        assert!(walk(&whole[10..], 100).is_err());
    }

    #[test]
    fn what_is_in_a_block_is_checked() {
        let mut bytes = Vec::new();
        begin(&mut bytes);
        put_plain(&mut bytes, b"one");
        let read = |bytes: &[u8]| {
            let (mut frames, mut content) = (Frames::default(), Vec::new());
            frames.feed(bytes);
            let unpacked = frames.next_block().unwrap().unwrap().unpack(&mut content);
            unpacked.map(|()| content)
        };
        assert_eq!(read(&bytes).unwrap(), b"one");
        *bytes.last_mut().unwrap() ^= 1;
        assert!(read(&bytes).is_err());
    }
}
