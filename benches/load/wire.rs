//! What goes over the wire: a request into which the order's number and the signature are patched, and as much of HTTP as the
//! answers need.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use anyhow::{Context as _, Result, bail, ensure};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpSocket, TcpStream},
};

use super::Load;

/// The header that carries the hex HMAC-SHA256 of the raw body.
pub(crate) const SIGNATURE_HEADER: &str = "x-careem-signature";
/// Digits of an order number after `CR`: fixed, so that the number can be patched into a finished request.
const ORDER_DIGITS: usize = 9;
/// Hex digits of an HMAC-SHA256.
const SIGNATURE_DIGITS: usize = 64;
/// Room for one answer. The hub's and the bare handler's take some hundred bytes; a longer one is an error.
pub(super) const ANSWER_ROOM: usize = 4096;
/// A careem order; the number takes the place of `#########`.
const BODY: &str = concat!(
    r##"{"id":"CR#########","status":"created","order_number":"ORD-001","created_at":"2025-10-01T12:00:00Z","##,
    r#""customer":{"name":"Ahmed Ali","phone_number":"+962791234567","email":"ahmed@example.com","#,
    r#""address":{"street":"King Abdullah Street","area":"Abdoun","city":"Amman","#,
    r#""latitude":31.9539,"longitude":35.9106}},"items":[{"id":"item-001","name":"Chicken Burger","#,
    r#""name_ar":"برجر دجاج","quantity":2,"item_price":5.5,"total_price":11.0,"groups":[{"name":"Add-ons","#,
    r#""options":[{"id":"opt-001","name":"Extra Cheese","price":0.5,"quantity":1}]}]}],"#,
    r#""price":{"subtotal":11.0,"delivery_fee":2.0,"service_fee":1.0,"tax_amount":2.24,"total_taxable_price":16.24},"#,
    r#""delivery_type":"careem","merchant_pay_type":"cash"}"#,
);

/// A finished request with places to patch.
#[derive(Clone)]
pub(super) struct Request {
    bytes: Vec<u8>,
    body: usize,
    digits: Range<usize>,
    signature: Range<usize>,
    /// Keyed once: cloning it saves two of the compressions of every signature.
    mac: Hmac<Sha256>,
}

impl Request {
    pub(super) fn new(load: &Load) -> Result<Self> {
        let mac = Hmac::<Sha256>::new_from_slice(load.secret.as_bytes()).context("the signature's key")?;
        let (path, address, merchant) = (&load.path, load.address, &load.merchant);
        let start = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\nuser-agent: load\r\n\
             x-merchant-id: {merchant}\r\ncontent-length: {}\r\n{SIGNATURE_HEADER}: ",
            BODY.len()
        );
        let head = format!("{start}{}\r\n\r\n", "0".repeat(SIGNATURE_DIGITS));
        let digits = head.len() + BODY.find('#').context("the body has no place for the order's number")?;
        Ok(Self {
            body: head.len(),
            digits: digits..digits + ORDER_DIGITS,
            signature: start.len()..start.len() + SIGNATURE_DIGITS,
            bytes: (head + BODY).into_bytes(),
            mac,
        })
    }

    pub(super) fn for_order(&mut self, order: u64) -> &[u8] {
        let mut rest = order;
        for digit in self.bytes[self.digits.clone()].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let mut mac = self.mac.clone();
        mac.update(&self.bytes[self.body..]);
        hex::encode_to_slice(mac.finalize().into_bytes(), &mut self.bytes[self.signature.clone()])
            .expect("the place for the signature is twice as long as an HMAC-SHA256");
        &self.bytes
    }
}

/// What the generator reads of an answer's head.
pub(super) struct Head {
    pub(super) status: u16,
    whole_length: usize,
    pub(super) closes: bool,
}

/// Connects, from a certain address of this machine where one is given.
pub(crate) async fn connect(address: SocketAddr, from: Option<IpAddr>) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(from) = from {
        socket
            .bind((from, 0).into())
            .with_context(|| format!("binding to {from}"))?;
    }
    let stream = socket.connect(address).await;
    let stream = stream.with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub(super) async fn read_answer(stream: &mut TcpStream, answer: &mut [u8]) -> Result<Head> {
    let mut filled = 0;
    let mut head = None;
    loop {
        let read = stream.read(&mut answer[filled..]).await.context("reading the answer")?;
        ensure!(read > 0, "the server closed the connection before its answer was whole");
        filled += read;
        if head.is_none() {
            head = parse_head(&answer[..filled])?;
        }
        match head {
            Some(head) if head.whole_length == filled => return Ok(head),
            Some(head) if head.whole_length < filled => bail!("more bytes came than the answer's content-length"),
            _ => ensure!(filled < answer.len(), "an answer of more than {ANSWER_ROOM} bytes"),
        }
    }
}

/// Reads status, `content-length` and `connection`; `None` while the head is not whole.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..end]).context("the answer's head is not text")?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 "))
        .and_then(|line| line.get(..3));
    let status = status
        .and_then(|status| status.parse().ok())
        .context("the answer has no HTTP/1.1 status line")?;
    let (mut length, mut closes) = (None, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse::<usize>().context("the answer's content-length")?);
        } else if name.eq_ignore_ascii_case("connection") {
            closes = value.trim().eq_ignore_ascii_case("close");
        }
    }
    let length = length.context("an answer without content-length: this reader understands no other")?;
    Ok(Some(Head {
        status,
        whole_length: end + 4 + length,
        closes,
    }))
}
