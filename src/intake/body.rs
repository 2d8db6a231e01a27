//! Reading a body within its limits: size on the wire and after decompression, time, and memory for all of them.

use std::{io::Read, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::{Bytes, BytesMut};
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::refusal::Reason;

/// Bytes of request bodies that may be held at a time, for all connections together: 1000 ordinary orders need one or
/// two MiB; a crowd of slow five-MiB bodies is turned away with 503 before it is felt.
const BUDGET_BYTES: usize = 32 * 1024 * 1024;
/// Granularity of the budget.
const UNIT_BYTES: usize = 1024;
/// Room that is made at once for a body that says how long it is; what it says is not believed further than this.
const MAX_PREALLOCATED_BYTES: usize = 64 * 1024;

/// Most bytes of a refused body that are read and thrown away, and the time for it.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;
const MAX_DISCARD_TIME: Duration = Duration::from_secs(1);

/// Room for bodies.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET_BYTES / UNIT_BYTES)))
    }
}

impl Budget {
    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Reason> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).map_err(|_| Reason::Overloaded)?;
        Arc::clone(&self.0)
            .try_acquire_many_owned(units)
            .map_err(|_| Reason::Overloaded)
    }
}

/// A body and the room that it takes up.
#[derive(Debug)]
pub struct Held {
    /// Decompressed, otherwise byte for byte.
    pub bytes: Bytes,
    _room: Room,
}

/// What a body has taken of the budget so far; given back when dropped.
#[derive(Debug, Default)]
struct Room(Option<OwnedSemaphorePermit>);

impl Room {
    fn grow(&mut self, budget: &Budget, from: usize, to: usize) -> Result<(), Reason> {
        let more = to.div_ceil(UNIT_BYTES) - from.div_ceil(UNIT_BYTES);
        if more == 0 {
            return Ok(());
        }
        let permit = budget.take(more * UNIT_BYTES)?;
        match &mut self.0 {
            Some(held) => held.merge(permit),
            None => self.0 = Some(permit),
        }
        Ok(())
    }
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
    // What takes longer is cut off; that is what the limits are for.
    let _ = tokio::time::timeout(MAX_DISCARD_TIME, reading).await;
}

/// Reads all of it.
///
/// # Errors
/// [`Reason::PayloadTooLarge`], [`Reason::RequestTimeout`], [`Reason::UnreadableBody`] or [`Reason::Overloaded`].
pub async fn read(
    headers: &HeaderMap,
    body: Body,
    budget: &Budget,
    max_bytes: usize,
    time: Duration,
) -> Result<Held, Reason> {
    let encoding = encoding(headers)?;
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|announced| announced > max_bytes) {
        discard(body).await;
        return Err(Reason::PayloadTooLarge(max_bytes));
    }
    let wire = tokio::time::timeout(time, on_the_wire(body, announced.unwrap_or(0), budget, max_bytes));
    let held = wire.await.map_err(|_| Reason::RequestTimeout)??;
    if encoding == Encoding::Identity {
        return Ok(held);
    }
    // Room for the largest result is taken before, since nothing can be refused half-way without having done the work.
    let mut room = Room::default();
    room.grow(budget, 0, max_bytes)?;
    let inflate = move || {
        // With the room of both: whoever hangs up meanwhile does not end the work, and must not make room for more of it.
        let compressed = held;
        let bytes = inflate(encoding, &compressed.bytes, max_bytes)?;
        Ok(Held { bytes, _room: room })
    };
    tokio::task::spawn_blocking(inflate)
        .await
        .map_err(|_| Reason::Internal)?
}

async fn on_the_wire(mut body: Body, announced: usize, budget: &Budget, max_bytes: usize) -> Result<Held, Reason> {
    let mut room = Room::default();
    let mut whole = BytesMut::new();
    let mut first: Option<Bytes> = None;
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Reason::UnreadableBody("the connection broke off or the framing was wrong"))?;
        let Ok(data) = frame.into_data() else { continue };
        if length + data.len() > max_bytes {
            discard(body).await;
            return Err(Reason::PayloadTooLarge(max_bytes));
        }
        room.grow(budget, length, length + data.len())?;
        length += data.len();
        // Most bodies come in one piece, which is then kept as it is.
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
    Ok(Held {
        bytes: first.unwrap_or_else(|| whole.freeze()),
        _room: room,
    })
}

fn inflate(encoding: Encoding, compressed: &[u8], max_bytes: usize) -> Result<Bytes, Reason> {
    let limit = max_bytes as u64 + 1;
    let mut whole = Vec::new();
    let read = match encoding {
        Encoding::Gzip => MultiGzDecoder::new(compressed).take(limit).read_to_end(&mut whole),
        Encoding::Deflate => ZlibDecoder::new(compressed).take(limit).read_to_end(&mut whole),
        Encoding::Identity => return Ok(Bytes::copy_from_slice(compressed)),
    };
    if whole.len() > max_bytes {
        return Err(Reason::PayloadTooLarge(max_bytes));
    }
    read.map_err(|_| Reason::UnreadableBody("it cannot be decompressed"))?;
    Ok(Bytes::from(whole))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn gzipped() -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_ENCODING, "gzip".parse().unwrap())])
    }

    #[tokio::test]
    async fn limits_hold_before_and_after_decompression() {
        let budget = Budget::default();
        let plain = |size: usize| read_plain(vec![b'x'; size], &budget);
        assert_eq!(plain(100).await.unwrap().bytes.len(), 100);
        assert_eq!(plain(101).await.unwrap_err(), Reason::PayloadTooLarge(100));
        let bomb = gzip(&vec![0; 10_000_000]);
        let headers = gzipped();
        assert!(bomb.len() < 20_000);
        assert_eq!(
            read(&headers, Body::from(bomb), &budget, 20_000, SECOND)
                .await
                .unwrap_err(),
            Reason::PayloadTooLarge(20_000)
        );
        let small = gzip(b"hello");
        assert_eq!(
            &read(&headers, Body::from(small), &budget, 100, SECOND)
                .await
                .unwrap()
                .bytes[..],
            b"hello"
        );
        let broken = read(&headers, Body::from("no gzip"), &budget, 100, SECOND)
            .await
            .unwrap_err();
        assert!(matches!(broken, Reason::UnreadableBody(_)));
    }

    async fn read_plain(bytes: Vec<u8>, budget: &Budget) -> Result<Held, Reason> {
        read(&HeaderMap::new(), Body::from(bytes), budget, 100, SECOND).await
    }

    #[tokio::test]
    async fn room_is_bounded_and_given_back() {
        let budget = Budget(Arc::new(Semaphore::new(4)));
        let big = |budget: Budget| async move {
            read(&HeaderMap::new(), Body::from(vec![b'x'; 3000]), &budget, 5000, SECOND).await
        };
        let first = big(budget.clone()).await.unwrap();
        assert_eq!(big(budget.clone()).await.unwrap_err(), Reason::Overloaded);
        drop(first);
        assert!(big(budget.clone()).await.is_ok());
        assert_eq!(budget.0.available_permits(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_thrown_away_has_limits() {
        let began = tokio::time::Instant::now();
        let stuck = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        discard(Body::from_stream(stuck)).await;
        assert!((SECOND..2 * SECOND).contains(&began.elapsed()), "{:?}", began.elapsed());

        let mut pieces = 0;
        let large = (0..100).map(move |_| Ok::<_, std::io::Error>(Bytes::from(vec![0; 1024 * 1024])));
        let (counting, counted) = std::sync::mpsc::channel();
        let large = large.inspect(move |_| {
            pieces += 1;
            counting.send(pieces).unwrap();
        });
        discard(Body::from_stream(futures_util::stream::iter(large))).await;
        assert_eq!(
            counted.iter().last(),
            Some(17),
            "the one that is over sixteen MiB is the last"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_half_way_times_out() {
        let stuck = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        let refused = read(&HeaderMap::new(), stuck, &Budget::default(), 100, SECOND)
            .await
            .unwrap_err();
        assert_eq!(refused, Reason::RequestTimeout);
    }

    /// A caller that hangs up while its body is unpacked does not make room for the next one's.
    #[test]
    fn room_is_taken_for_as_long_as_the_work_lasts() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let budget = Budget(Arc::new(Semaphore::new(64)));
            let (release, held_up) = std::sync::mpsc::channel::<()>();
            let before = tokio::task::spawn_blocking(move || held_up.recv());
            let headers = gzipped();
            let body = Body::from(gzip(&[b'x'; 10_000]));
            let reading = read(&headers, body, &budget, 20_000, SECOND);
            // The work waits behind the other, and nobody waits for it any more.
            assert!(futures_util::FutureExt::now_or_never(reading).is_none());
            let taken = 64 - budget.0.available_permits();
            assert_eq!(taken, 21, "of the compressed body and of what it may become");
            release.send(()).unwrap();
            before.await.unwrap().unwrap();
            // It is over when its room is there again.
            let all = tokio::time::timeout(SECOND, budget.0.acquire_many(64)).await;
            assert!(all.unwrap().is_ok());
        });
    }
}
