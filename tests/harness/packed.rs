//! Compressed and padded bodies.

use std::io::Write as _;

use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};

use super::careem::order;

pub(crate) fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zlib(plain: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// The same, beginning with so many blocks that hold nothing: each is stored, not the last, and has no bytes.
pub(crate) fn empty_blocks(count: usize, plain: &[u8]) -> Vec<u8> {
    let packed = zlib(plain);
    let blocks = [0, 0, 0, 0xff, 0xff].repeat(count);
    [&packed[..2], &blocks, &packed[2..]].concat()
}

/// An order of Careem, padded with spaces to exactly this length.
pub(crate) fn padded(id: &str, bytes: usize) -> String {
    let order = order(id);
    let head = order.trim_end().strip_suffix('}').unwrap();
    format!("{head}{}}}", " ".repeat(bytes - head.len() - 1))
}
