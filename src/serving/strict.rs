//! Requires CR and LF at the end of each line of a request's head. The HTTP library takes a bare LF as well, and a proxy in
//! front may not: what one of them reads as a value is another header, or another request, for the other.
//!
//! Every byte that is read goes through a [`Scanner`], which follows the framing of requests far enough to tell heads from
//! bodies. A bare LF in a head becomes a NUL, which no head may hold, so the library answers 400 and ends the connection.
//! Where the framing is ambiguous (two lengths, chunks and a length, no number) the library refuses the request or ends the
//! connection after it, and nothing more is inspected.

use std::io;

use axum_server::accept::Accept;
use futures_util::future::BoxFuture;

use super::layer::{Layer, Layered};

/// Bytes that are kept of a line: names and values of the two headers that say where a body ends are shorter.
const MAX_KEPT: usize = 96;
/// Digits of a chunk's size; more is no size.
const MAX_SIZE_DIGITS: u32 = 15;

/// Puts a [`Strict`] around whatever another acceptor makes of a connection.
#[derive(Clone)]
pub(super) struct StrictAcceptor<A>(pub(super) A);

impl<I, S, A> Accept<I, S> for StrictAcceptor<A>
where
    A: Accept<I, S>,
    A::Future: Send + 'static,
{
    type Stream = Strict<A::Stream>;
    type Service = A::Service;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, A::Service)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let accepting = self.0.accept(stream, service);
        Box::pin(async move {
            let (stream, service) = accepting.await?;
            Ok((Layered::new(stream, Scanner::default()), service))
        })
    }
}

/// A connection with checked request heads.
type Strict<S> = Layered<S, Scanner>;

impl Layer for Scanner {
    fn read(&mut self, bytes: &mut [u8]) {
        self.scan(bytes);
    }
}

/// The part of a request that the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In the request's line, or before it.
    Line,
    /// In a header.
    Header,
    /// In a body, with so many bytes left.
    Body(u64),
    /// In the line of a chunk's size.
    ChunkSize,
    /// Behind the last chunk.
    Trailer,
    /// Nothing more is looked at.
    Unknown,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Scanner {
    at: At,
    /// The beginning of the line.
    line: Vec<u8>,
    is_cut: bool,
    last: u8,
    length: Option<u64>,
    is_chunked: bool,
    /// The library decides what it is, and goes on with nothing behind it.
    is_doubtful: bool,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            at: At::Line,
            line: Vec::new(),
            is_cut: false,
            last: 0,
            length: None,
            is_chunked: false,
            is_doubtful: false,
        }
    }
}

impl Scanner {
    fn scan(&mut self, bytes: &mut [u8]) {
        let mut next = 0;
        while next < bytes.len() {
            match self.at {
                At::Unknown => return,
                At::Body(left) => {
                    let here = (bytes.len() - next).min(usize::try_from(left).unwrap_or(usize::MAX));
                    next += here;
                    let left = left - here as u64;
                    self.at = match (left, self.is_chunked) {
                        (1.., _) => At::Body(left),
                        (0, true) => At::ChunkSize,
                        (0, false) => self.begin(),
                    };
                }
                At::Line | At::Header | At::ChunkSize | At::Trailer => {
                    if !self.take(bytes[next]) {
                        bytes[next] = 0;
                    }
                    next += 1;
                }
            }
        }
    }

    /// False for a bare LF where there must be none.
    fn take(&mut self, byte: u8) -> bool {
        let last = std::mem::replace(&mut self.last, byte);
        if byte != b'\n' {
            if self.line.len() < MAX_KEPT {
                self.line.push(byte);
            } else {
                self.is_cut = true;
            }
            return true;
        }
        if last != b'\r' {
            self.at = At::Unknown;
            return false;
        }
        // Remove the CR, if it was kept.
        if !self.is_cut {
            self.line.pop();
        }
        self.at = self.end_of_line();
        self.line.clear();
        self.is_cut = false;
        true
    }

    fn end_of_line(&mut self) -> At {
        let is_empty = self.line.is_empty();
        match self.at {
            // Empty lines before a request are skipped.
            At::Line if is_empty => At::Line,
            At::Line => {
                self.is_doubtful = self.line.starts_with(b"CONNECT ");
                At::Header
            }
            At::Header if is_empty => self.end_of_head(),
            At::Header => {
                self.note_header();
                At::Header
            }
            At::ChunkSize => self.chunk(),
            At::Trailer if is_empty => self.begin(),
            at => at,
        }
    }

    fn note_header(&mut self) {
        let Some(colon) = self.line.iter().position(|byte| *byte == b':') else {
            return;
        };
        let (name, value) = (&self.line[..colon], self.line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            self.is_doubtful |= self.is_cut || !is_number || number.is_none();
            self.is_doubtful |= self.length.is_some() && self.length != number;
            self.length = number;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.is_doubtful |= self.is_cut || self.is_chunked || !value.eq_ignore_ascii_case(b"chunked");
            self.is_chunked = true;
        }
    }

    fn end_of_head(&mut self) -> At {
        let has_both = self.is_chunked && self.length.is_some();
        match self.length {
            _ if self.is_doubtful || has_both => At::Unknown,
            _ if self.is_chunked => At::ChunkSize,
            Some(length @ 1..) => At::Body(length),
            _ => self.begin(),
        }
    }

    /// The part that follows the line with a chunk's size.
    fn chunk(&mut self) -> At {
        let (mut size, mut digits) = (0_u64, 0);
        for byte in &self.line {
            let Some(digit) = char::from(*byte).to_digit(16) else {
                break;
            };
            digits += 1;
            if digits > MAX_SIZE_DIGITS {
                return At::Unknown;
            }
            size = size * 16 + u64::from(digit);
        }
        match (digits, size) {
            (0, _) => At::Unknown,
            (_, 0) => At::Trailer,
            // A chunk includes its line end.
            (_, size) => At::Body(size + 2),
        }
    }

    /// The next request.
    fn begin(&mut self) -> At {
        (self.length, self.is_chunked, self.is_doubtful) = (None, false, false);
        self.last = 0;
        At::Line
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes out, in pieces of this size.
    fn scanned(text: &str, piece: usize) -> String {
        let (mut scanner, mut bytes) = (Scanner::default(), text.as_bytes().to_vec());
        bytes.chunks_mut(piece).for_each(|piece| scanner.scan(piece));
        String::from_utf8(bytes).unwrap()
    }

    const HEAD: &str = "POST /a HTTP/1.1\r\nHost: hub\r\n";

    #[test]
    fn a_bare_line_feed_in_a_head_is_made_invalid() {
        for piece in [1, 2, 3, 7, 4096] {
            for (text, expected) in [
                ("GET / HTTP/1.1\nHost: hub\r\n\r\n", "GET / HTTP/1.1\0Host: hub\r\n\r\n"),
                (
                    "GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n",
                    "GET / HTTP/1.1\r\nA: b\0C: d\r\n\r\n",
                ),
                ("GET / HTTP/1.1\r\nA: b\r\n\n", "GET / HTTP/1.1\r\nA: b\r\n\0"),
                ("\nGET / HTTP/1.1\r\n\r\n", "\0GET / HTTP/1.1\r\n\r\n"),
            ] {
                assert_eq!(scanned(text, piece), expected);
            }
            // Also after other requests on the same connection.
            let body = "{\n\"a\": 1\n}";
            let with_length = format!("{HEAD}content-length:  {} \r\n\r\n{body}", body.len());
            let chunked = format!(
                "{HEAD}Transfer-Encoding: Chunked\r\n\r\n{:x};a=b\r\n{body}\r\n0\r\nT: u\r\n\r\n",
                body.len()
            );
            let none = format!("{HEAD}\r\n");
            for whole in [&with_length, &chunked, &none, &format!("\r\n{none}")] {
                for before in [&with_length, &chunked, &none] {
                    let text = format!("{before}{whole}GET / HTTP/1.1\nA: b\r\n\r\n");
                    let expected = format!("{before}{whole}GET / HTTP/1.1\0A: b\r\n\r\n");
                    assert_eq!(scanned(&text, piece), expected);
                }
            }
        }
    }

    #[test]
    fn unclear_requests_are_left_to_the_library() {
        for headers in [
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: +5",
            "Content-Length: 99999999999999999999",
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
        ] {
            let text = format!("{HEAD}{headers}\r\n\r\nbody\nbody\n");
            assert_eq!(scanned(&text, 5), text, "{headers}");
        }
        let text = format!("{HEAD}Content-Length: 2\r\nContent-Length: 2\r\n\r\n\n\nGET /\n");
        assert!(scanned(&text, 5).ends_with("\r\n\r\n\n\nGET /\0"));
    }

    proptest! {
        /// No body is ever changed, however the bytes are cut.
        #[test]
        fn bodies_stay_as_they_are(
            bodies in prop::collection::vec(("[\r\n a-z0-9:]{0,80}", any::<bool>()), 1..6),
            piece in 1usize..200,
            long in 0usize..300,
        ) {
            let mut text = String::new();
            for (body, is_chunked) in &bodies {
                text += HEAD;
                text += &format!("X-Long: {}\r\n", "y".repeat(long));
                if *is_chunked {
                    text += "transfer-encoding: chunked\r\n\r\n";
                    for part in body.as_bytes().chunks(33) {
                        text += &format!("{:X}\r\n{}\r\n", part.len(), std::str::from_utf8(part).unwrap());
                    }
                    text += "0\r\n\r\n";
                } else {
                    text += &format!("content-length: {}\r\n\r\n{body}", body.len());
                }
            }
            prop_assert_eq!(scanned(&text, piece), text);
        }
    }
}
