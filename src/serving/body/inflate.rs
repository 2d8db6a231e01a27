//! Decompresses a body. The sender is not verified yet, so the work is limited by what comes out and by what goes in: packed
//! bytes without content (empty blocks, empty gzip members) take a processor as well.

use std::io::{self, BufRead, Read};

use bytes::Bytes;
use flate2::bufread::{GzDecoder, ZlibDecoder};

use super::{BodyLimits, BufferedBody, Encoding, MemoryReservation};
use crate::serving::refusal::Reason;

/// How many times its packed size a body may have: more is made to cost CPU.
pub(super) const MAX_RATIO: usize = 32;
/// Up to here the ratio does not count: a short text that repeats itself packs well.
pub(super) const RATIO_FREE_BYTES: usize = 256 * 1024;
/// How many times what has come out of it may have gone into the decoder. Bytes that do not pack take 0.01 % more than they
/// have; an encoder that is flushed after every few characters doubles them.
pub(super) const MAX_EXPANSION: usize = 2;
/// Packed bytes that do not count for that: heads, names and tables.
pub(super) const EXPANSION_FREE_BYTES: usize = 4 * 1024;
/// Gzip members of one body. HTTP clients send one.
pub(super) const MAX_MEMBERS: usize = 64;

/// Decompressed bytes that are read at a time.
const PIECE_BYTES: usize = 8 * 1024;
/// Packed bytes that the decoder gets at a time.
const FEED_BYTES: usize = 2 * 1024;
/// Memory of a decoder: its window of 32 KB and its tables.
const DECODER_BYTES: usize = 48 * 1024;

/// How far a body is decompressed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    /// Packed bytes that go in.
    pub(super) packed: usize,
    /// Bytes that come out.
    pub(super) unpacked: usize,
}

impl Work {
    /// To its end.
    pub(super) const ALL: Self = Self {
        packed: usize::MAX,
        unpacked: usize::MAX,
    };
}

/// What is done where the request is handled, without another thread: some 0.5 ms of work at most. An order of a few KB packs into
/// less. Packed bytes may cost 150 ns each: blocks that bring a table of their own for every few characters.
pub(super) const AT_ONCE: Work = Work {
    packed: 4 * 1024,
    unpacked: 64 * 1024,
};

/// The packed bytes, of which the decoder gets a part at a time. Where that part ends, it gets [`io::ErrorKind::WouldBlock`].
#[derive(Debug, Default)]
struct Packed {
    bytes: Bytes,
    next: usize,
    until: usize,
}

impl Packed {
    /// Hands out some more.
    fn feed(&mut self) {
        self.until = self.until.max(self.next + FEED_BYTES);
    }

    fn is_at_end(&self) -> bool {
        self.next == self.bytes.len()
    }
}

impl Read for Packed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let here = self.fill_buf()?;
        let count = here.len().min(into.len());
        into[..count].copy_from_slice(&here[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Packed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let until = self.until.min(self.bytes.len());
        if self.next == until && !self.is_at_end() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(&self.bytes[self.next..until])
    }

    fn consume(&mut self, count: usize) {
        self.next += count;
    }
}

/// Takes a body apart.
enum Decoder {
    Gzip(Box<GzDecoder<Packed>>),
    Deflate(ZlibDecoder<Packed>),
}

impl Decoder {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.read(piece),
            Self::Deflate(decoder) => decoder.read(piece),
        }
    }

    fn packed(&mut self) -> &mut Packed {
        match self {
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Deflate(decoder) => decoder.get_mut(),
        }
    }

    /// Whether more is expected after the end of a part: what follows a gzip member is another one. Where it is none, it is
    /// refused, zeros included: no HTTP client pads.
    fn begins_another(&mut self) -> bool {
        match self {
            Self::Gzip(decoder) => {
                let rest = std::mem::take(decoder.get_mut());
                decoder.reset(rest);
                true
            }
            Self::Deflate(_) => false,
        }
    }
}

/// A body that is being decompressed. Its room grows with what has come out of it.
pub(super) struct Inflating {
    decoder: Decoder,
    members: usize,
    whole: Vec<u8>,
    max_bytes: usize,
    /// The limit of its decompressed size, by its compressed size.
    most: usize,
    reservation: MemoryReservation,
    /// Bytes that take up room beside what has come out.
    beside: usize,
    /// Of the compressed body, which the decoder reads.
    _compressed: MemoryReservation,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum InflateProgress {
    Done,
    More,
}

impl Inflating {
    pub(super) fn new(encoding: Encoding, compressed: BufferedBody, reading: &BodyLimits<'_>) -> Self {
        let BufferedBody { bytes, _room } = compressed;
        let most = bytes.len().saturating_mul(MAX_RATIO).max(RATIO_FREE_BYTES);
        let packed = Packed {
            bytes,
            ..Packed::default()
        };
        let decoder = match encoding {
            Encoding::Deflate => Decoder::Deflate(ZlibDecoder::new(packed)),
            Encoding::Gzip | Encoding::Identity => Decoder::Gzip(Box::new(GzDecoder::new(packed))),
        };
        let reservation = reading.budget.reservation(reading.sender);
        reservation.is_whole();
        Self {
            decoder,
            members: 1,
            whole: Vec::new(),
            max_bytes: reading.max_bytes,
            most,
            reservation,
            beside: 0,
            _compressed: _room,
        }
    }

    /// Decompresses until all is out, or until this much is done.
    ///
    /// # Errors
    /// [`Reason::PayloadTooLarge`], [`Reason::UnpacksTooFar`], [`Reason::UnreadableBody`], or as [`MemoryReservation::resize`] where there is no room for more.
    pub(super) fn go_on(&mut self, until: Work) -> Result<InflateProgress, Reason> {
        let mut piece = [0; PIECE_BYTES];
        while self.whole.len() < until.unpacked && self.decoder.packed().next < until.packed {
            match self.decoder.read(&mut piece) {
                Ok(0) if self.decoder.packed().is_at_end() => return Ok(InflateProgress::Done),
                Ok(0) => self.begin_another()?,
                Ok(read) => self.take(&piece[..read])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.decoder.packed().feed(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Reason::UnreadableBody("it cannot be decompressed")),
            }
            let worth = self.whole.len().saturating_mul(MAX_EXPANSION);
            if self.decoder.packed().next > worth.saturating_add(EXPANSION_FREE_BYTES) {
                return Err(Reason::UnreadableBody("its packed bytes have next to no content"));
            }
        }
        Ok(InflateProgress::More)
    }

    /// The next gzip member.
    fn begin_another(&mut self) -> Result<(), Reason> {
        if !self.decoder.begins_another() {
            return Err(Reason::UnreadableBody("something follows its packed bytes"));
        }
        self.members += 1;
        if self.members > MAX_MEMBERS {
            return Err(Reason::UnreadableBody("it has too many gzip members"));
        }
        Ok(())
    }

    /// Keeps what has come out.
    fn take(&mut self, piece: &[u8]) -> Result<(), Reason> {
        let length = self.whole.len() + piece.len();
        if length > self.max_bytes {
            return Err(Reason::PayloadTooLarge(self.max_bytes));
        }
        if length > self.most {
            return Err(Reason::UnpacksTooFar(MAX_RATIO));
        }
        if length > self.whole.capacity() {
            let capacity = length.max(2 * self.whole.capacity()).min(self.max_bytes);
            self.reservation.resize(capacity + self.beside)?;
            self.whole.reserve_exact(capacity - self.whole.len());
        }
        self.whole.extend_from_slice(piece);
        Ok(())
    }

    /// Takes room for the decoder itself: as many may be at work as there are threads for it.
    pub(super) fn count_the_decoder(&mut self) -> Result<(), Reason> {
        self.beside = DECODER_BYTES;
        self.reservation.resize(self.whole.capacity() + self.beside)
    }

    /// The decompressed body, with exactly the memory that it needs.
    pub(super) fn finish(self) -> Result<BufferedBody, Reason> {
        let Self {
            whole, mut reservation, ..
        } = self;
        let bytes = Bytes::from(whole.into_boxed_slice());
        reservation.resize(bytes.len())?;
        Ok(BufferedBody {
            bytes,
            _room: reservation,
        })
    }
}
