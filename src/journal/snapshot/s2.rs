//! Unpacks blocks of S2, the compression that NATS uses for snapshots, and computes their checksums. S2 is Snappy plus copies that
//! repeat the previous copy's distance. Pure.

use anyhow::{Context as _, bail, ensure};

/// Maximal size of an unpacked block in bytes: what S2 allows.
pub(super) const MAX_BLOCK: usize = 4 << 20;

/// The low bits of a tag byte name the kind of element.
const KIND: u8 = 0b11;
const LITERAL: u8 = 0;
const COPY_NEAR: u8 = 1;
const COPY_FAR: u8 = 2;
/// From this value on, a literal's length is in the next one to four bytes.
const LONG_LITERAL: u8 = 60;
/// Minimal length of a copy whose length has three bits.
const LEAST_COPY: usize = 4;
/// From this length code on, a repeat's length is in the next one to three bytes. It is also the minimal length then.
const LONG_REPEAT: usize = 5;
const LONG_REPEATS: [usize; 3] = [4, 1 << 8, 1 << 16];

/// Replaces the content of `out` by the content of a packed block.
///
/// # Errors
/// If the block is broken or holds more than [`MAX_BLOCK`] bytes.
pub(super) fn unpack(block: &[u8], out: &mut Vec<u8>) -> anyhow::Result<()> {
    out.clear();
    let mut input = Input(block);
    let length = input.length()?;
    ensure!(length <= MAX_BLOCK, "a block of {length} bytes");
    out.reserve(length);
    let mut distance = 0;
    while !input.0.is_empty() {
        let tag = input.byte()?;
        match tag & KIND {
            LITERAL => {
                let literal = input.literal(tag)?;
                ensure!(literal.len() <= length - out.len(), "a block is longer than it says");
                out.extend_from_slice(literal);
                continue;
            }
            COPY_NEAR => {
                let far = usize::from(tag >> 5) << 8 | usize::from(input.byte()?);
                let mut copied = usize::from(tag >> 2 & 0b111);
                if far != 0 {
                    distance = far;
                } else if let Some(longer) = copied.checked_sub(LONG_REPEAT) {
                    copied = LONG_REPEATS[longer] + input.number(longer + 1)?;
                }
                copy(out, distance, copied + LEAST_COPY, length)?;
            }
            kind => {
                distance = input.number(if kind == COPY_FAR { 2 } else { 4 })?;
                copy(out, distance, 1 + usize::from(tag >> 2), length)?;
            }
        }
    }
    ensure!(out.len() == length, "a block is shorter than it says");
    Ok(())
}

/// Appends a copy of the bytes at this distance before the end. The copy may overlap its own result.
fn copy(out: &mut Vec<u8>, distance: usize, count: usize, length: usize) -> anyhow::Result<()> {
    ensure!(
        (1..=out.len()).contains(&distance) && count <= length - out.len(),
        "a block copies from nowhere, or too much"
    );
    let mut left = count;
    while left > 0 {
        let from = out.len() - distance;
        let now = left.min(distance);
        out.extend_from_within(from..from + now);
        left -= now;
    }
    Ok(())
}

/// The unread rest of a block.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> anyhow::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).context("a block ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> anyhow::Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian number of this many bytes, at most four.
    fn number(&mut self, bytes: usize) -> anyhow::Result<usize> {
        let bytes = self.take(bytes)?.iter().rev();
        Ok(bytes.fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// The length at the beginning: seven bits per byte, the lowest first.
    fn length(&mut self) -> anyhow::Result<usize> {
        let mut length = 0;
        for at in 0..4 {
            let byte = self.byte()?;
            length |= usize::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                return Ok(length);
            }
        }
        bail!("a block is too long")
    }

    fn literal(&mut self, tag: u8) -> anyhow::Result<&'a [u8]> {
        let code = tag >> 2;
        let less_one = match code.checked_sub(LONG_LITERAL) {
            None => usize::from(code),
            Some(longer) => self.number(usize::from(longer) + 1)?,
        };
        self.take(less_one + 1)
    }
}

/// The checksum of a block: CRC-32C of its content, rotated and shifted as in Snappy.
pub(super) fn checksum(content: &[u8]) -> [u8; 4] {
    const MASK: u32 = 0xa282_ead8;
    crc32c::crc32c(content)
        .rotate_right(15)
        .wrapping_add(MASK)
        .to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unpacked(block: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut out = b"before".to_vec();
        unpack(block, &mut out).map(|()| out)
    }

    #[test]
    fn every_kind_of_piece() {
        // A literal, a copy that overlaps its own result, and a copy with two bytes of distance.
        assert_eq!(unpacked(b"\x09\x04ab\x05\x02\x06\x03\x00").unwrap(), b"abababaab");
        // Repeats of a distance: short, and with a length of one, two and three bytes.
        let repeats = |code: u8, more: &[u8], count: usize| {
            let total = 3 + 4 + count;
            let mut block = vec![
                (total & 0x7f) as u8 | 0x80,
                (total >> 7 & 0x7f) as u8 | 0x80,
                (total >> 14) as u8,
            ];
            block.extend(b"\x08abc\x01\x03");
            block.extend([code << 2 | 1, 0]);
            block.extend(more);
            let expected: Vec<u8> = b"abc".iter().copied().cycle().take(total).collect();
            assert_eq!(unpacked(&block).unwrap(), expected, "{code}");
        };
        repeats(0, &[], 4);
        repeats(4, &[], 8);
        repeats(5, &[1], 9);
        repeats(6, &[2, 1], 4 + 256 + 258);
        repeats(7, &[3, 0, 1], 4 + 65_536 + 65_539);
        // A distance of four bytes, and literals with lengths of one to four bytes.
        assert_eq!(unpacked(b"\x04\x08abc\x03\x03\x00\x00\x00").unwrap(), b"abca");
        for bytes in 1u8..=4 {
            let mut block = vec![3, (59 + bytes) << 2, 2];
            block.extend(std::iter::repeat_n(0, usize::from(bytes) - 1));
            block.extend(b"xyz");
            assert_eq!(unpacked(&block).unwrap(), b"xyz");
        }
        assert_eq!(unpacked(b"\x00").unwrap(), b"");
    }

    #[test]
    fn what_is_broken_is_refused() {
        let broken: [&[u8]; 9] = [
            b"",
            b"\x80",
            b"\x80\x80\x80\x04",
            b"\xff\xff\xff\xff\x01",
            // Shorter and longer than the stated length.
            b"\x05\x04ab",
            b"\x01\x04ab",
            // A distance before the beginning, a repeat without a copy, a copy that is too long.
            b"\x06\x04ab\x02\x03\x00",
            b"\x06\x04ab\x01\x00",
            b"\x04\x04ab\x05\x02",
        ];
        for block in broken {
            assert!(unpacked(block).is_err(), "{block:x?}");
        }
    }

    #[test]
    fn the_checksum() {
        assert_eq!(
            checksum(b"123456789"),
            (0x2507_c60d_u32.wrapping_add(0xa282_ead8)).to_le_bytes()
        );
        // CRC-32C of 32 zeros, by RFC 3720, B.4.
        assert_eq!(
            checksum(&[0; 32]),
            0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
        );
    }

    proptest! {
        /// No input makes it panic or yield more bytes than the block states.
        #[test]
        fn anything_is_read_or_refused(block in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(content) = unpacked(&block) {
                prop_assert!(content.len() <= MAX_BLOCK);
            }
        }
    }
}
