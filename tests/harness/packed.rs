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

/// An order of Careem, padded with spaces to exactly this length.
pub(crate) fn padded(id: &str, bytes: usize) -> String {
    let order = order(id);
    let head = order.trim_end().strip_suffix('}').unwrap();
    format!("{head}{}}}", " ".repeat(bytes - head.len() - 1))
}
