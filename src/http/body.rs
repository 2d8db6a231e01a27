//! The body of an answer: decompressed, within its limit before and after that, and without its byte order mark.

use std::io::{self, Read};

use axum::http::{HeaderMap, header::CONTENT_ENCODING};
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// The content codings that the hub accepts.
pub(super) const ACCEPTED: &str = "gzip, deflate";
/// Larger bodies are decompressed on a separate thread.
const LARGE: usize = 64 * 1024;
/// U+FEFF, as UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// Not at all.
    Plain,
    /// gzip.
    Gzip,
    /// RFC 9110 means zlib; some servers send bare deflate.
    Deflate,
    /// In a way that the hub does not offer.
    Unknown,
}

impl Coding {
    /// As the headers of the answer say.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(CONTENT_ENCODING).iter();
        let tokens = values.flat_map(|value| value.to_str().unwrap_or("?").split(','));
        let tokens: Vec<_> = tokens.map(|token| token.trim().to_ascii_lowercase()).collect();
        let mut coded = tokens
            .iter()
            .map(String::as_str)
            .filter(|token| !["", "identity"].contains(token));
        match (coded.next(), coded.next()) {
            (None, _) => Self::Plain,
            (Some("gzip" | "x-gzip"), None) => Self::Gzip,
            (Some("deflate"), None) => Self::Deflate,
            _ => Self::Unknown,
        }
    }
}

/// A body as far as it could be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unpacked {
    pub(super) bytes: Vec<u8>,
    /// There was more.
    pub(super) is_too_large: bool,
    /// It is not packed as the answer says.
    pub(super) is_broken: bool,
}

/// Undoes the coding, up to so many bytes.
pub(super) async fn unpack(coding: Coding, packed: Vec<u8>, max_bytes: usize) -> Unpacked {
    let unpacked = if packed.len() > LARGE && coding != Coding::Plain {
        let unpacking = tokio::task::spawn_blocking(move || undo(coding, packed, max_bytes));
        // It fails only when the process ends.
        unpacking.await.unwrap_or_else(|_| Unpacked {
            bytes: Vec::new(),
            is_too_large: false,
            is_broken: true,
        })
    } else {
        undo(coding, packed, max_bytes)
    };
    Unpacked {
        bytes: text(unpacked.bytes),
        ..unpacked
    }
}

fn undo(coding: Coding, packed: Vec<u8>, max_bytes: usize) -> Unpacked {
    let read = match coding {
        Coding::Plain => {
            return Unpacked {
                bytes: packed,
                is_too_large: false,
                is_broken: false,
            };
        }
        Coding::Unknown => Err((Vec::new(), true)),
        Coding::Gzip => up_to(MultiGzDecoder::new(&*packed), max_bytes),
        Coding::Deflate if is_zlib(&packed) => up_to(ZlibDecoder::new(&*packed), max_bytes),
        Coding::Deflate => up_to(DeflateDecoder::new(&*packed), max_bytes),
    };
    let (mut bytes, is_broken) = match read {
        Ok(bytes) => (bytes, false),
        Err(failed) => failed,
    };
    let is_too_large = bytes.len() > max_bytes;
    bytes.truncate(max_bytes);
    Unpacked {
        bytes,
        is_too_large,
        is_broken: is_broken && !is_too_large,
    }
}

/// One byte more than the limit shows that there is more. If the data breaks off: what came before that.
fn up_to(reader: impl Read, max_bytes: usize) -> Result<Vec<u8>, (Vec<u8>, bool)> {
    let mut bytes = Vec::new();
    let read: io::Result<usize> = reader.take(max_bytes as u64 + 1).read_to_end(&mut bytes);
    match read {
        Ok(_) => Ok(bytes),
        Err(_) => Err((bytes, true)),
    }
}

/// RFC 1950, 2.2: the method is 8, and the first two bytes are a multiple of 31.
fn is_zlib(packed: &[u8]) -> bool {
    match packed {
        [first, second, ..] => first & 0x0f == 8 && (u16::from(*first) << 8 | u16::from(*second)) % 31 == 0,
        _ => false,
    }
}

/// Text as UTF-8 without a byte order mark, whatever it came as.
fn text(bytes: Vec<u8>) -> Vec<u8> {
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        char::decode_utf16(units)
            .map(|one| one.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect::<String>()
            .into_bytes()
    };
    if let Some(rest) = bytes.strip_prefix(BYTE_ORDER_MARK) {
        return rest.to_vec();
    }
    match &*bytes {
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        _ => bytes,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{
        Compression,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };
    use proptest::prelude::*;

    use super::*;

    fn packed(coding: Coding, bare: bool, plain: &[u8]) -> Vec<u8> {
        let level = Compression::default();
        match coding {
            Coding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), level);
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            Coding::Deflate if bare => {
                let mut encoder = DeflateEncoder::new(Vec::new(), level);
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            Coding::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            Coding::Plain | Coding::Unknown => plain.to_vec(),
        }
    }

    #[test]
    fn codings_are_told_apart() {
        let of = |values: &[&str]| {
            let pairs = values.iter().map(|value| (CONTENT_ENCODING, value.parse().unwrap()));
            Coding::of(&HeaderMap::from_iter(pairs))
        };
        assert_eq!(of(&[]), Coding::Plain);
        assert_eq!(of(&["identity"]), Coding::Plain);
        assert_eq!(of(&["GZip"]), Coding::Gzip);
        assert_eq!(of(&["identity, deflate"]), Coding::Deflate);
        for other in [&["br"][..], &["gzip, gzip"], &["zstd"]] {
            assert_eq!(of(other), Coding::Unknown, "{other:?}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text() {
        for bytes in [&b"\xef\xbb\xbf{}"[..], b"\xff\xfe{\0}\0", b"\xfe\xff\0{\0}", b"{}"] {
            assert_eq!(text(bytes.to_vec()), b"{}");
        }
    }

    #[tokio::test]
    async fn large_bodies_are_unpacked_too() {
        let next = |last: &u32| Some(last.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        let numbers = std::iter::successors(Some(1u32), next);
        let plain: Vec<u8> = numbers.map(|number| (number >> 24) as u8).take(200_000).collect();
        let packed = packed(Coding::Gzip, false, &plain);
        assert!(packed.len() > LARGE);
        let unpacked = unpack(Coding::Gzip, packed, 1_000_000).await;
        assert_eq!(unpacked.bytes.len(), plain.len());
    }

    proptest! {
        /// What comes out is the beginning of what went in, never more than the limit, and its flags say whether it is all.
        #[test]
        fn unpacked_within_the_limit(
            plain in prop::collection::vec(0u8..4, 0..2_000), coding in prop::sample::select(vec![Coding::Gzip, Coding::Deflate]),
            bare: bool, max in 0usize..2_000, cut in 0usize..100,
        ) {
            let whole = packed(coding, bare, &plain);
            let unpacked = undo(coding, whole.clone(), max);
            prop_assert_eq!(&unpacked.bytes[..], &plain[..plain.len().min(max)]);
            prop_assert_eq!(unpacked.is_too_large, plain.len() > max);
            prop_assert!(!unpacked.is_broken);
            let cut = undo(coding, whole[..whole.len() - cut.min(whole.len())].to_vec(), max);
            prop_assert!(plain.starts_with(&cut.bytes));
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), max in 0usize..300) {
            for coding in [Coding::Plain, Coding::Gzip, Coding::Deflate, Coding::Unknown] {
                let unpacked = undo(coding, bytes.clone(), max);
                prop_assert!(coding == Coding::Plain || unpacked.bytes.len() <= max);
                text(unpacked.bytes);
            }
        }
    }
}
