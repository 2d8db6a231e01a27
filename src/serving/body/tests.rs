use std::io::{self, Write};

use flate2::{Compression, write::GzEncoder};

use super::{
    inflate::{AT_ONCE, EXPANSION_FREE_BYTES, MAX_MEMBERS, MAX_RATIO, RATIO_FREE_BYTES},
    *,
};

/// As much as there is where memory is not short.
const ROOMY: usize = 32 * 1024 * 1024;
const SECOND: Duration = Duration::from_secs(1);
const KB: usize = 1024;

/// So many bytes of room for strangers, and a quarter more, which their provider may not have.
fn room(bytes: usize) -> BodyBudget {
    BodyBudget::of([bytes / 3 * 4; 3])
}

/// Reads a stranger's body.
async fn read_of(
    headers: &HeaderMap,
    body: Body,
    budget: &BodyBudget,
    max_bytes: usize,
    time: Duration,
) -> Result<BufferedBody, Reason> {
    let (heavy, sender) = (&Heavy::default(), &stranger());
    let reading = BodyLimits {
        budget,
        heavy,
        sender,
        max_bytes,
        time,
    };
    read(headers, body, &reading).await
}

fn stranger() -> Sender {
    Sender {
        address: "203.0.113.9".parse().unwrap(),
        class: SenderClass::Stranger,
        provider: "careem".into(),
    }
}

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
    let budget = BodyBudget::all(ROOMY);
    let plain = |size: usize| read_plain(vec![b'x'; size], &budget);
    assert_eq!(plain(100).await.unwrap().bytes.len(), 100);
    assert_eq!(plain(101).await.unwrap_err(), Reason::PayloadTooLarge(100));
    let bomb = gzip(&vec![0; 10_000_000]);
    let headers = gzipped();
    assert!(bomb.len() < 20_000);
    assert_eq!(
        read_of(&headers, Body::from(bomb), &budget, 20_000, SECOND)
            .await
            .unwrap_err(),
        Reason::PayloadTooLarge(20_000)
    );
    let small = gzip(b"hello");
    assert_eq!(
        &read_of(&headers, Body::from(small), &budget, 100, SECOND)
            .await
            .unwrap()
            .bytes[..],
        b"hello"
    );
    let broken = read_of(&headers, Body::from("no gzip"), &budget, 100, SECOND)
        .await
        .unwrap_err();
    assert!(matches!(broken, Reason::UnreadableBody(_)));
}

async fn read_plain(bytes: Vec<u8>, budget: &BodyBudget) -> Result<BufferedBody, Reason> {
    read_of(&HeaderMap::new(), Body::from(bytes), budget, 100, SECOND).await
}

#[tokio::test]
async fn memory_is_bounded_and_released() {
    let budget = room(3 * 1500);
    let big = |budget: BodyBudget| async move {
        read_of(&HeaderMap::new(), Body::from(vec![b'x'; 3000]), &budget, 5000, SECOND).await
    };
    let first = big(budget.clone()).await.unwrap();
    assert_eq!(big(budget.clone()).await.unwrap_err(), Reason::HoldsMost);
    drop(first);
    assert!(big(budget.clone()).await.is_ok());
    assert_eq!(budget.held(), 0);
}

#[tokio::test]
async fn a_compressed_body_reserves_what_it_needs() {
    let budget = room(9 * KB);
    let packed = |plain: &[u8]| {
        let (body, budget) = (Body::from(gzip(plain)), budget.clone());
        async move { read_of(&gzipped(), body, &budget, 5_000_000, SECOND).await }
    };
    // Eight orders of 1 KiB fit into nine KiB, although each may have five MB; the ninth KiB is for the compressed bytes of the last.
    let held = futures_util::future::join_all((0..8).map(|_| packed(&[b'x'; 900]))).await;
    assert!(held.iter().all(Result::is_ok), "{held:?}");
    assert_eq!(budget.held(), 8 * 900);
    drop(held);
    // A reservation that cannot grow is refused and released.
    assert_eq!(packed(&[b'x'; 9_300]).await.unwrap_err(), Reason::HoldsMost);
    assert_eq!(packed(&vec![b'x'; 250_000]).await.unwrap_err(), Reason::HoldsMost);
    assert_eq!(budget.held(), 0);
    // Growing in steps reserves no more than is needed.
    let held = packed(&[b'x'; 3_000]).await.unwrap();
    assert_eq!((held.bytes.len(), budget.held()), (3_000, 3_000));
}

/// Bodies that all need more than there is: some get through, the others are refused, and none waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_of_bombs_neither_waits_nor_leaves_anything_behind() {
    const ROOM: usize = 750 * KB;
    let budget = room(ROOM);
    let bomb = Bytes::from(gzip(&vec![b' '; 250 * KB]));
    let crowd = (0..64).map(|_| {
        let (body, budget) = (Body::from(bomb.clone()), budget.clone());
        tokio::spawn(async move { read_of(&gzipped(), body, &budget, 500 * 1024, SECOND).await })
    });
    let crowd = futures_util::future::join_all(crowd.collect::<Vec<_>>());
    let told = tokio::time::timeout(60 * SECOND, crowd)
        .await
        .expect("none waits for another");
    let (taken, refused): (Vec<_>, Vec<_>) = told.into_iter().map(Result::unwrap).partition(Result::is_ok);
    assert!(taken.len() <= 3, "{} of 250 KiB in {ROOM} bytes", taken.len());
    assert!(
        refused
            .iter()
            .all(|one| matches!(one, Err(Reason::Overloaded | Reason::HoldsMost))),
        "{refused:?}"
    );
    drop((taken, refused));
    assert_eq!(budget.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn discarded_bodies_are_limited() {
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
    let refused = read_of(&HeaderMap::new(), stuck, &BodyBudget::all(ROOMY), 100, SECOND)
        .await
        .unwrap_err();
    assert_eq!(refused, Reason::RequestTimeout);
}

/// A caller that hangs up while its body is unpacked does not make room for the next one's.
#[test]
fn memory_stays_reserved_while_the_work_lasts() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let budget = room(300 * KB);
        let (release, held_up) = std::sync::mpsc::channel::<()>();
        let before = tokio::task::spawn_blocking(move || held_up.recv());
        let headers = gzipped();
        let body = Body::from(gzip(&[b'x'; 100_000]));
        let reading = read_of(&headers, body, &budget, 200_000, SECOND);
        // The work waits for the other one, and its caller has gone.
        assert!(futures_util::FutureExt::now_or_never(reading).is_none());
        let taken = budget.held().div_ceil(KB);
        // The compressed body, what has come out of it so far, and the decoder.
        assert!((64 + 48..=64 * 2 + 48 + 2).contains(&taken), "{taken}");
        release.send(()).unwrap();
        before.await.unwrap().unwrap();
        // The work has ended when its memory is released.
        let given_back = async {
            while budget.held() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(10 * SECOND, given_back).await.unwrap();
    });
}

/// Repetitive content compresses a thousandfold; for an unverified sender only a part of it is decompressed.
#[tokio::test]
async fn decompression_is_limited() {
    let (budget, headers) = (BodyBudget::all(ROOMY), gzipped());
    let packed = async |plain: &[u8]| read_of(&headers, Body::from(gzip(plain)), &budget, 5_000_000, SECOND).await;
    assert!(packed(&vec![b' '; RATIO_FREE_BYTES]).await.is_ok());
    let refused = packed(&vec![b' '; RATIO_FREE_BYTES + 1]).await.unwrap_err();
    assert_eq!(refused, Reason::UnpacksTooFar(MAX_RATIO));
    // A large menu is compressed to a tenth.
    let menu: String = (0..60_000)
        .map(|number| format!(r#"{{"id":"{}","price":{number}}},"#, number * 7919))
        .collect();
    assert!(menu.len() > 1_500_000 && packed(menu.as_bytes()).await.is_ok());
    assert_eq!(budget.held(), 0);
}

#[tokio::test]
async fn trailing_bytes_after_compressed_data_are_refused() {
    let deflate = HeaderMap::from_iter([(header::CONTENT_ENCODING, "deflate".parse().unwrap())]);
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(b"hello").unwrap();
    let (zlib, gzip) = (encoder.finish().unwrap(), gzip(b"hello"));
    for (headers, packed) in [(&deflate, &zlib), (&gzipped(), &gzip)] {
        for (more, is_taken) in [
            (&b""[..], true),
            (b"x", false),
            (b"\0", false),
            (b"\0\0\0\0\0\0\0\0\0\0\0\0", false),
        ] {
            let body = Body::from([packed, more].concat());
            let read = read_of(headers, body, &BodyBudget::all(ROOMY), 100, SECOND).await;
            assert_eq!(read.is_ok(), is_taken, "{headers:?} {more:?}: {read:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_has_a_minimum_rate() {
    let pieces = |size: usize, pause: Duration| {
        let piece = futures_util::stream::unfold((), move |()| async move {
            tokio::time::sleep(pause).await;
            Some((Ok::<_, io::Error>(Bytes::from(vec![b'x'; size])), ()))
        });
        Body::from_stream(futures_util::StreamExt::take(piece, 100))
    };
    let (began, time) = (Instant::now(), 300 * SECOND);
    let slow = read_of(
        &HeaderMap::new(),
        pieces(500, SECOND),
        &BodyBudget::all(ROOMY),
        100_000,
        time,
    )
    .await;
    assert_eq!(slow.unwrap_err(), Reason::RequestTimeout);
    assert!(
        (8.0..10.0).contains(&began.elapsed().as_secs_f64()),
        "{:?}",
        began.elapsed()
    );
    let read = read_of(
        &HeaderMap::new(),
        pieces(1024, SECOND),
        &BodyBudget::all(ROOMY),
        200_000,
        time,
    )
    .await;
    assert_eq!(read.unwrap().bytes.len(), 102_400);
}

fn deflated() -> HeaderMap {
    HeaderMap::from_iter([(header::CONTENT_ENCODING, "deflate".parse().unwrap())])
}

/// A deflate stream that begins with so many empty blocks.
fn empty_blocks(count: usize, plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).unwrap();
    let packed = encoder.finish().unwrap();
    // Each is stored, not the last, and has no bytes.
    let blocks = [0, 0, 0, 0xff, 0xff].repeat(count);
    [&packed[..2], &blocks, &packed[2..]].concat()
}

/// A deflate stream with 20,000 bytes, and so many empty blocks behind them.
fn emptied(count: usize) -> Vec<u8> {
    const LENGTH: u16 = 20_000;
    let head = [&[0x78, 0x9c, 0][..], &LENGTH.to_le_bytes(), &(!LENGTH).to_le_bytes()].concat();
    let blocks = [0, 0, 0, 0xff, 0xff].repeat(count);
    [&head[..], &[b' '; LENGTH as usize], &blocks].concat()
}

/// Packed bytes cost a processor also where nothing comes out of them.
#[tokio::test]
async fn packed_bytes_without_content_are_refused() {
    let budget = BodyBudget::all(ROOMY);
    let read = async |headers: &HeaderMap, packed: Vec<u8>| {
        read_of(headers, Body::from(packed), &budget, 5_000_000, SECOND).await
    };
    let next_to_no_content = Reason::UnreadableBody("its packed bytes have next to no content");
    let too_many_members = Reason::UnreadableBody("it has too many gzip members");
    for (what, headers, packed, refusal) in [
        ("members", gzipped(), gzip(b"").repeat(200_000), &too_many_members),
        (
            "blocks",
            deflated(),
            empty_blocks(900_000, b"hello"),
            &next_to_no_content,
        ),
        // Some content does not pay for the rest.
        (
            "members of one byte",
            gzipped(),
            gzip(b"x").repeat(MAX_MEMBERS + 1),
            &too_many_members,
        ),
        ("blocks behind content", deflated(), emptied(9_000), &next_to_no_content),
        (
            "a long name",
            gzipped(),
            named(EXPANSION_FREE_BYTES + 1),
            &next_to_no_content,
        ),
    ] {
        assert_eq!(&read(&headers, packed).await.unwrap_err(), refusal, "{what}");
    }
    // The neighbours: some empty blocks, as an encoder that is flushed writes, many members, a name.
    let flushed = empty_blocks(EXPANSION_FREE_BYTES / 5 - 10, b"hello");
    for (headers, packed, length) in [
        (deflated(), flushed, 5),
        (gzipped(), gzip(b"hello").repeat(MAX_MEMBERS), 5 * MAX_MEMBERS),
        (gzipped(), named(1000), 5),
    ] {
        assert_eq!(read(&headers, packed).await.unwrap().bytes.len(), length);
    }
    assert_eq!(budget.held(), 0);
}

/// A gzip member with a name of so many bytes in its head.
fn named(bytes: usize) -> Vec<u8> {
    let builder = flate2::GzBuilder::new().filename(vec![b'n'; bytes]);
    let mut encoder = builder.write(Vec::new(), Compression::best());
    encoder.write_all(b"hello").unwrap();
    encoder.finish().unwrap()
}

/// What takes long waits for a turn, by what goes in as well as by what comes out.
#[tokio::test(start_paused = true)]
async fn large_bodies_wait_for_a_turn() {
    let (budget, heavy, sender) = (BodyBudget::all(ROOMY), Heavy::default(), stranger());
    let reading = BodyLimits {
        budget: &budget,
        heavy: &heavy,
        sender: &sender,
        max_bytes: 5_000_000,
        time: SECOND,
    };
    let noise: Vec<u8> = std::iter::successors(Some(1_u64), |state| {
        Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1))
    })
    .map(|state| (state >> 56) as u8)
    .take(AT_ONCE.packed + 1000)
    .collect();
    assert!(noise.len() < AT_ONCE.unpacked);
    let text = vec![b' '; AT_ONCE.unpacked + 1000];
    let read = async |plain: &[u8]| read(&gzipped(), Body::from(gzip(plain)), &reading).await;
    let turn = heavy.permit(SenderClass::Stranger).await.unwrap();
    for large in [&noise, &text] {
        assert_eq!(read(large).await.unwrap_err(), Reason::Overloaded);
    }
    // Others do not wait.
    assert!(read(&noise[..AT_ONCE.packed - 1000]).await.is_ok());
    assert!(read(&text[..AT_ONCE.unpacked - 1000]).await.is_ok());
    drop(turn);
    for large in [&noise, &text] {
        assert_eq!(&read(large).await.unwrap().bytes[..], &large[..]);
    }
}
