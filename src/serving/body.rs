//! Reads a body within its limits: size on the wire and after decompression, time, and memory of all bodies together.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::time::Instant;

pub use self::reservation::{BodyBudget, Sender, SenderClass};
use self::{
    inflate::{AT_ONCE, InflateProgress, Inflating, Work},
    reservation::MemoryReservation,
};
use super::{heavy::Heavy, refusal::Reason};
use crate::fault_injection;

mod inflate;
mod reservation;

/// How long a body may come as slowly as it likes.
const GRACE: Duration = Duration::from_secs(5);
/// Bytes a second that have to come of a body after that, on average: a tenth of what the slowest line carries.
const LEAST_RATE: f64 = 1024.0;
/// Room that is made at once for a body that says how long it is; what it says is not believed further than this.
const MAX_PREALLOCATED_BYTES: usize = 64 * 1024;

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
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(value) = values.next() else {
        return Ok(Encoding::Identity);
    };
    if values.next().is_some() {
        return Err(Reason::UnreadableBody("it has more than one content-encoding"));
    }
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
    if inflating.go_on(AT_ONCE)? == InflateProgress::Done {
        return inflating.finish();
    }
    inflating.count_the_decoder()?;
    let turn = reading.heavy.permit(reading.sender.class).await?;
    // The work owns both reservations: it continues when the client hangs up, so its memory must stay reserved.
    let rest = move || {
        let _turn = turn;
        inflating.go_on(Work::ALL)?;
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

#[cfg(test)]
mod tests;
