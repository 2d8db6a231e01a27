//! Reading a body within its limits: size on the wire and after decompression, time, and memory for all of them.

use std::{
    io::{self, Read},
    sync::Arc,
    time::Duration,
};

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

/// Decompressed bytes that are read at a time.
const PIECE_BYTES: usize = 8 * 1024;
/// Decompressed bytes up to which a body is decompressed where its request is handled, without another thread: some
/// 0.2 ms of work. An order has a few KB.
const INFLATED_AT_ONCE_BYTES: usize = 64 * 1024;
/// Memory of a decoder: its window of 32 KB and its tables.
const DECODER_BYTES: usize = 48 * 1024;

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

/// A body and the room that it takes up.
#[derive(Debug)]
pub struct Held {
    /// Decompressed, otherwise byte for byte.
    pub bytes: Bytes,
    _room: Room,
}

/// What a body has taken of the budget so far; given back when dropped.
///
/// Nothing waits for room: a body that cannot grow is refused and gives back what it has, so bodies that each have a part
/// of what they need cannot wait for one another.
#[derive(Debug)]
struct Room {
    budget: Budget,
    held: Option<OwnedSemaphorePermit>,
}

impl Room {
    const fn of(budget: Budget) -> Self {
        Self { budget, held: None }
    }

    /// Takes or gives back room, so that it is as much as so many bytes need.
    ///
    /// # Errors
    /// [`Reason::Overloaded`] where there is not enough; then it stays as it is.
    fn resize(&mut self, bytes: usize) -> Result<(), Reason> {
        let wanted = bytes.div_ceil(UNIT_BYTES);
        let has = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if wanted < has {
            let surplus = self.held.as_mut().and_then(|held| held.split(has - wanted));
            drop(surplus);
        }
        if wanted > has {
            let more = u32::try_from(wanted - has).map_err(|_| Reason::Overloaded)?;
            let permit = Arc::clone(&self.budget.0)
                .try_acquire_many_owned(more)
                .map_err(|_| Reason::Overloaded)?;
            match &mut self.held {
                Some(held) => held.merge(permit),
                None => self.held = Some(permit),
            }
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
    let mut inflating = Inflating::new(encoding, held, budget, max_bytes);
    // Most are done here and now; the rest of a large one would keep other requests waiting.
    if inflating.go_on(INFLATED_AT_ONCE_BYTES)? == Progress::Done {
        return inflating.finish();
    }
    inflating.count_the_decoder()?;
    // The work has the room of both: a client that hangs up meanwhile does not end it, and must not make room for more.
    let rest = move || {
        inflating.go_on(usize::MAX)?;
        inflating.finish()
    };
    tokio::task::spawn_blocking(rest).await.map_err(|_| Reason::Internal)?
}

async fn on_the_wire(mut body: Body, announced: usize, budget: &Budget, max_bytes: usize) -> Result<Held, Reason> {
    let mut room = Room::of(budget.clone());
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
        length += data.len();
        room.resize(length)?;
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

/// A body that is being decompressed. Its room grows with what has come out of it.
struct Inflating {
    decoder: Box<dyn Read + Send>,
    whole: Vec<u8>,
    max_bytes: usize,
    room: Room,
    /// Bytes that take up room beside what has come out.
    beside: usize,
    /// Of the compressed body, which the decoder reads.
    _compressed: Room,
}

#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Done,
    More,
}

impl Inflating {
    fn new(encoding: Encoding, compressed: Held, budget: &Budget, max_bytes: usize) -> Self {
        let Held { bytes, _room } = compressed;
        let source = io::Cursor::new(bytes);
        let decoder: Box<dyn Read + Send> = match encoding {
            Encoding::Gzip => Box::new(MultiGzDecoder::new(source)),
            Encoding::Deflate => Box::new(ZlibDecoder::new(source)),
            Encoding::Identity => Box::new(source),
        };
        Self {
            decoder,
            whole: Vec::new(),
            max_bytes,
            room: Room::of(budget.clone()),
            beside: 0,
            _compressed: _room,
        }
    }

    /// Decompresses until all is out, or until this much is.
    ///
    /// # Errors
    /// [`Reason::PayloadTooLarge`], [`Reason::UnreadableBody`], or [`Reason::Overloaded`] where there is no room for more.
    fn go_on(&mut self, until: usize) -> Result<Progress, Reason> {
        let mut piece = [0; PIECE_BYTES];
        while self.whole.len() < until {
            let read = match self.decoder.read(&mut piece) {
                Ok(0) => return Ok(Progress::Done),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Err(Reason::UnreadableBody("it cannot be decompressed")),
            };
            let length = self.whole.len() + read;
            if length > self.max_bytes {
                return Err(Reason::PayloadTooLarge(self.max_bytes));
            }
            if length > self.whole.capacity() {
                let capacity = length.max(2 * self.whole.capacity()).min(self.max_bytes);
                self.room.resize(capacity + self.beside)?;
                self.whole.reserve_exact(capacity - self.whole.len());
            }
            self.whole.extend_from_slice(&piece[..read]);
        }
        Ok(Progress::More)
    }

    /// Takes room for the decoder itself: as many may be at work as there are threads for it.
    fn count_the_decoder(&mut self) -> Result<(), Reason> {
        self.beside = DECODER_BYTES;
        self.room.resize(self.whole.capacity() + self.beside)
    }

    /// What came out, with the room that it needs and no more.
    fn finish(self) -> Result<Held, Reason> {
        let Self { whole, mut room, .. } = self;
        let bytes = Bytes::from(whole.into_boxed_slice());
        room.resize(bytes.len())?;
        Ok(Held { bytes, _room: room })
    }
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

    #[tokio::test]
    async fn a_packed_body_takes_the_room_that_it_needs() {
        let budget = Budget(Arc::new(Semaphore::new(9)));
        let packed = |plain: &[u8]| {
            let (body, budget) = (Body::from(gzip(plain)), budget.clone());
            async move { read(&gzipped(), body, &budget, 5_000_000, SECOND).await }
        };
        // Eight orders where there are nine KiB, though each may have five MB: the ninth is for the packed bytes of the last.
        let held = futures_util::future::join_all((0..8).map(|_| packed(&[b'x'; 900]))).await;
        assert!(held.iter().all(Result::is_ok), "{held:?}");
        assert_eq!(budget.0.available_permits(), 1);
        drop(held);
        // What cannot grow is refused, and gives back what it has.
        assert_eq!(packed(&[b'x'; 9_000]).await.unwrap_err(), Reason::Overloaded);
        assert_eq!(packed(&vec![b'x'; 1_000_000]).await.unwrap_err(), Reason::Overloaded);
        assert_eq!(budget.0.available_permits(), 9);
        // Growing in steps does not leave more than what is needed.
        let held = packed(&[b'x'; 3_000]).await.unwrap();
        assert_eq!((held.bytes.len(), budget.0.available_permits()), (3_000, 6));
    }

    /// Bodies that all need more than there is: some get through, the others are refused, and none waits.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_crowd_of_bombs_neither_waits_nor_leaves_anything_behind() {
        const ROOM: usize = 1024;
        let budget = Budget(Arc::new(Semaphore::new(ROOM)));
        let bomb = Bytes::from(gzip(&vec![b' '; 400 * 1024]));
        let crowd = (0..64).map(|_| {
            let (body, budget) = (Body::from(bomb.clone()), budget.clone());
            tokio::spawn(async move { read(&gzipped(), body, &budget, 500 * 1024, SECOND).await })
        });
        let crowd = futures_util::future::join_all(crowd.collect::<Vec<_>>());
        let told = tokio::time::timeout(60 * SECOND, crowd)
            .await
            .expect("none waits for another");
        let (taken, refused): (Vec<_>, Vec<_>) = told.into_iter().map(Result::unwrap).partition(Result::is_ok);
        assert!(taken.len() <= ROOM / 400, "{} of 400 KiB in {ROOM} KiB", taken.len());
        assert!(
            refused.iter().all(|one| matches!(one, Err(Reason::Overloaded))),
            "{refused:?}"
        );
        drop((taken, refused));
        assert_eq!(budget.0.available_permits(), ROOM);
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
            const ROOM: usize = 256;
            let budget = Budget(Arc::new(Semaphore::new(ROOM)));
            let (release, held_up) = std::sync::mpsc::channel::<()>();
            let before = tokio::task::spawn_blocking(move || held_up.recv());
            let headers = gzipped();
            let body = Body::from(gzip(&[b'x'; 100_000]));
            let reading = read(&headers, body, &budget, 200_000, SECOND);
            // The work waits behind the other, and nobody waits for it any more.
            assert!(futures_util::FutureExt::now_or_never(reading).is_none());
            let taken = ROOM - budget.0.available_permits();
            // The compressed body, what has come out of it so far, and the decoder.
            assert!((64 + 48..=64 * 2 + 48 + 2).contains(&taken), "{taken}");
            release.send(()).unwrap();
            before.await.unwrap().unwrap();
            // It is over when its room is there again.
            let all = tokio::time::timeout(SECOND, budget.0.acquire_many(256)).await;
            assert!(all.unwrap().is_ok());
        });
    }
}
