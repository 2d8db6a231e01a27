//! Reads a body within its limits: size on the wire and after decompression, time, and memory of all bodies together.

use std::{
    io::{self, Read},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::{Bytes, BytesMut};
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http_body_util::BodyExt;
use tokio::time::Instant;

use self::reservation::MemoryReservation;
pub use self::reservation::{BodyBudget, Sender, SenderClass};
use super::{heavy::Heavy, refusal::Reason};
use crate::fault_injection;

mod reservation;

/// How long a body may come as slowly as it likes.
const GRACE: Duration = Duration::from_secs(5);
/// Bytes a second that have to come of a body after that, on average: a tenth of what the slowest line carries.
const LEAST_RATE: f64 = 1024.0;
/// Room that is made at once for a body that says how long it is; what it says is not believed further than this.
const MAX_PREALLOCATED_BYTES: usize = 64 * 1024;

/// How many times its packed size a body may have: more is made to cost CPU, and the sender is not verified yet.
const MAX_RATIO: usize = 32;
/// Up to here the ratio does not count: a short text that repeats itself packs well.
const RATIO_FREE_BYTES: usize = 256 * 1024;
/// Decompressed bytes that are read at a time.
const PIECE_BYTES: usize = 8 * 1024;
/// Decompressed bytes up to which a body is decompressed where its request is handled, without another thread: some
/// 0.2 ms of work. An order has a few KB.
const INFLATED_AT_ONCE_BYTES: usize = 64 * 1024;
/// Memory of a decoder: its window of 32 KB and its tables.
const DECODER_BYTES: usize = 48 * 1024;

/// Most bytes of a refused body that are read and discarded, and the time for it.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;
const MAX_DISCARD_TIME: Duration = Duration::from_secs(1);

/// A body and its memory reservation.
#[derive(Debug)]
pub struct BufferedBody {
    /// Decompressed, otherwise byte for byte.
    pub bytes: Bytes,
    _room: MemoryReservation,
}

/// How the body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Identity,
    Gzip,
    Deflate,
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Reason> {
    let Some(value) = headers.get(header::CONTENT_ENCODING) else {
        return Ok(Encoding::Identity);
    };
    match value.to_str().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(Encoding::Identity),
        "gzip" | "x-gzip" => Ok(Encoding::Gzip),
        "deflate" => Ok(Encoding::Deflate),
        _ => Err(Reason::UnreadableBody(
            "content-encoding must be gzip, deflate or identity",
        )),
    }
}

/// Reads what is left of a body that is refused, within limits, and throws it away: a client that is still sending when
/// the connection is closed sees a broken pipe instead of the answer.
pub async fn discard(mut body: Body) {
    let reading = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > MAX_DISCARDED_BYTES {
                break;
            }
        }
    };
    // A body that takes longer is cut off.
    let _ = tokio::time::timeout(MAX_DISCARD_TIME, reading).await;
}

/// The limits and the budget for reading a body.
pub struct BodyLimits<'a> {
    /// The memory for bodies.
    pub budget: &'a BodyBudget,
    /// Where a large one is decompressed.
    pub heavy: &'a Heavy,
    /// The sender.
    pub sender: &'a Sender,
    /// Limit before and after decompression.
    pub max_bytes: usize,
    /// Time for the whole body.
    pub time: Duration,
}

/// Reads all of it.
///
/// # Errors
/// [`Reason::PayloadTooLarge`], [`Reason::UnpacksTooFar`], [`Reason::RequestTimeout`], [`Reason::UnreadableBody`],
/// [`Reason::HoldsMost`] or [`Reason::Overloaded`].
pub async fn read(headers: &HeaderMap, body: Body, reading: &BodyLimits<'_>) -> Result<BufferedBody, Reason> {
    let (encoding, max_bytes) = (encoding(headers)?, reading.max_bytes);
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|announced| announced > max_bytes) {
        discard(body).await;
        return Err(Reason::PayloadTooLarge(max_bytes));
    }
    let held = on_the_wire(body, announced.unwrap_or(0), reading).await?;
    if encoding == Encoding::Identity {
        return Ok(held);
    }
    let mut inflating = Inflating::new(encoding, held, reading);
    // Most bodies end here. The rest of a large one runs apart, because it would delay other requests.
    if inflating.go_on(INFLATED_AT_ONCE_BYTES)? == InflateProgress::Done {
        return inflating.finish();
    }
    inflating.count_the_decoder()?;
    let turn = reading.heavy.permit(reading.sender.class).await?;
    // The work owns both reservations: it continues when the client hangs up, so its memory must stay reserved.
    let rest = move || {
        let _turn = turn;
        inflating.go_on(usize::MAX)?;
        inflating.finish()
    };
    tokio::task::spawn_blocking(rest).await.map_err(|_| Reason::Internal)?
}

/// Until when more must have come of a body of which so many bytes did: it has a grace, and then a least rate.
fn due(began: Instant, length: usize, grace: Duration, time: Duration) -> Instant {
    began + (grace + Duration::from_secs_f64(length as f64 / LEAST_RATE)).min(time)
}

async fn on_the_wire(mut body: Body, announced: usize, reading: &BodyLimits<'_>) -> Result<BufferedBody, Reason> {
    let mut reservation = reading.budget.reservation(reading.sender);
    let mut whole = BytesMut::new();
    let mut first: Option<Bytes> = None;
    let mut length = 0;
    let (began, grace) = (Instant::now(), fault_injection::time("body_grace", GRACE));
    loop {
        let frame = tokio::select! {
            biased;
            frame = tokio::time::timeout_at(due(began, length, grace, reading.time), body.frame()) => frame,
            () = reservation.lost() => return Err(Reason::HoldsMost),
        };
        let Some(frame) = frame.map_err(|_| Reason::RequestTimeout)? else {
            break;
        };
        let frame = frame.map_err(|_| Reason::UnreadableBody("the connection broke off or the framing was wrong"))?;
        let Ok(data) = frame.into_data() else { continue };
        if length + data.len() > reading.max_bytes {
            discard(body).await;
            return Err(Reason::PayloadTooLarge(reading.max_bytes));
        }
        length += data.len();
        reservation.resize(length)?;
        // Most bodies come in one piece, which is kept without copying.
        match first.take() {
            None if whole.is_empty() => first = Some(data),
            None => whole.extend_from_slice(&data),
            Some(head) => {
                whole.reserve(announced.min(MAX_PREALLOCATED_BYTES).max(head.len() + data.len()));
                whole.extend_from_slice(&head);
                whole.extend_from_slice(&data);
            }
        }
    }
    reservation.is_whole();
    Ok(BufferedBody {
        bytes: first.unwrap_or_else(|| whole.freeze()),
        _room: reservation,
    })
}

/// Takes a body apart; what is left of it after its end can be told.
enum Decoder {
    Gzip(Box<MultiGzDecoder<io::Cursor<Bytes>>>),
    Deflate(ZlibDecoder<io::Cursor<Bytes>>),
}

impl Decoder {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.read(piece),
            Self::Deflate(decoder) => decoder.read(piece),
        }
    }

    /// Whether all of the packed bytes belong to it. What follows a gzip member is read as another one, and refused where it is
    /// none, zeros included: no HTTP client pads.
    fn is_at_end(&self) -> bool {
        match self {
            Self::Gzip(_) => true,
            Self::Deflate(decoder) => decoder.total_in() == decoder.get_ref().get_ref().len() as u64,
        }
    }
}

/// A body that is being decompressed. Its room grows with what has come out of it.
struct Inflating {
    decoder: Decoder,
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
enum InflateProgress {
    Done,
    More,
}

impl Inflating {
    fn new(encoding: Encoding, compressed: BufferedBody, reading: &BodyLimits<'_>) -> Self {
        let BufferedBody { bytes, _room } = compressed;
        let most = bytes.len().saturating_mul(MAX_RATIO).max(RATIO_FREE_BYTES);
        let source = io::Cursor::new(bytes);
        let decoder = match encoding {
            Encoding::Deflate => Decoder::Deflate(ZlibDecoder::new(source)),
            Encoding::Gzip | Encoding::Identity => Decoder::Gzip(Box::new(MultiGzDecoder::new(source))),
        };
        let reservation = reading.budget.reservation(reading.sender);
        reservation.is_whole();
        Self {
            decoder,
            whole: Vec::new(),
            max_bytes: reading.max_bytes,
            most,
            reservation,
            beside: 0,
            _compressed: _room,
        }
    }

    /// Decompresses until all is out, or until this much is.
    ///
    /// # Errors
    /// [`Reason::PayloadTooLarge`], [`Reason::UnpacksTooFar`], [`Reason::UnreadableBody`], or as [`MemoryReservation::resize`] where there is no room for more.
    fn go_on(&mut self, until: usize) -> Result<InflateProgress, Reason> {
        let mut piece = [0; PIECE_BYTES];
        while self.whole.len() < until {
            let read = match self.decoder.read(&mut piece) {
                Ok(0) if self.decoder.is_at_end() => return Ok(InflateProgress::Done),
                Ok(0) => return Err(Reason::UnreadableBody("something follows its packed bytes")),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(Reason::UnreadableBody("it cannot be decompressed")),
            };
            let length = self.whole.len() + read;
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
            self.whole.extend_from_slice(&piece[..read]);
        }
        Ok(InflateProgress::More)
    }

    /// Takes room for the decoder itself: as many may be at work as there are threads for it.
    fn count_the_decoder(&mut self) -> Result<(), Reason> {
        self.beside = DECODER_BYTES;
        self.reservation.resize(self.whole.capacity() + self.beside)
    }

    /// The decompressed body, with exactly the memory that it needs.
    fn finish(self) -> Result<BufferedBody, Reason> {
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

#[cfg(test)]
mod tests;
