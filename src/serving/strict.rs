//! Requires CR and LF at the end of each line of a request's head. The HTTP library takes a bare LF as well, and a proxy in
//! front may not: what one of them reads as a value is another header, or another request, for the other.
//!
//! Every byte that is read goes through a [`Scanner`], which follows the framing of requests to tell heads from bodies. It and
//! the library must agree where each request ends. So what they, or a proxy in front, may read differently is refused where it
//! is met: a bare LF in a head, in the line of a chunk's size or in a trailer; a second length, or a length that is no number;
//! a transfer encoding that is not `chunked` alone, once; a length and chunks; `CONNECT`; a chunk's size of more than 15 digits.
//!
//! The byte where it is met becomes one that the library refuses, every byte behind it a NUL, and nothing more is read. The
//! library answers 400, or tells the reader of the body, and ends the connection.

use std::{io, task::Context};

use axum_server::accept::Accept;
use futures_util::future::BoxFuture;

use super::layer::{Layer, Layered};

/// Bytes that are kept of a line: names and values of the two headers that say where a body ends are shorter.
const MAX_KEPT: usize = 96;
/// Digits of a chunk's size; more is no size. Zeros in front count: a reader may stop at any number of digits.
const MAX_SIZE_DIGITS: usize = 15;

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
    fn before_read(&mut self, _: &mut Context<'_>) -> io::Result<()> {
        match self.at {
            At::Refused => Err(io::Error::new(io::ErrorKind::InvalidData, "an ambiguous request")),
            _ => Ok(()),
        }
    }

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
    /// Behind something ambiguous.
    Refused,
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
        }
    }
}

impl Scanner {
    /// Whether these first bytes of a connection are refused already.
    pub(super) fn refuses(bytes: &mut [u8]) -> bool {
        let mut scanner = Self::default();
        scanner.scan(bytes);
        scanner.at == At::Refused
    }

    fn scan(&mut self, bytes: &mut [u8]) {
        let mut next = 0;
        while next < bytes.len() {
            match self.at {
                At::Refused => {
                    bytes[next..].fill(0);
                    return;
                }
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
                    bytes[next] = self.take(bytes[next]);
                    next += 1;
                }
            }
        }
    }

    /// The byte that the library gets instead of this one.
    fn take(&mut self, byte: u8) -> u8 {
        let last = std::mem::replace(&mut self.last, byte);
        if byte != b'\n' {
            if self.line.len() < MAX_KEPT {
                self.line.push(byte);
            } else {
                self.is_cut = true;
            }
            return byte;
        }
        if last != b'\r' {
            let of_chunk = self.at == At::ChunkSize;
            self.at = At::Refused;
            // In the line of a chunk's size the library refuses a bare LF itself, but takes a NUL in an extension.
            return if of_chunk { byte } else { 0 };
        }
        // Remove the CR, if it was kept.
        if !self.is_cut {
            self.line.pop();
        }
        self.at = self.end_of_line();
        self.line.clear();
        self.is_cut = false;
        // A CR without LF is refused everywhere.
        if self.at == At::Refused { 0 } else { byte }
    }

    fn end_of_line(&mut self) -> At {
        let is_empty = self.line.is_empty();
        match self.at {
            // Empty lines before a request are skipped.
            At::Line if is_empty => At::Line,
            At::Line if self.line.starts_with(b"CONNECT ") => At::Refused,
            At::Line => At::Header,
            At::Header if is_empty => self.end_of_head(),
            At::Header => match self.is_clear() {
                true => At::Header,
                false => At::Refused,
            },
            At::ChunkSize => self.chunk(),
            At::Trailer if is_empty => self.begin(),
            at => at,
        }
    }

    /// Notes what a header says of the body's end; false where that is ambiguous.
    fn is_clear(&mut self) -> bool {
        let Some(colon) = self.line.iter().position(|byte| *byte == b':') else {
            // Without a colon it is no header, and refused by the library. A long name is none of the two.
            return true;
        };
        let (name, value) = (&self.line[..colon], self.line[colon + 1..].trim_ascii());
        let is_length = name.eq_ignore_ascii_case(b"content-length");
        if !is_length && !name.eq_ignore_ascii_case(b"transfer-encoding") {
            return true;
        }
        let is_first = self.length.is_none() && !self.is_chunked;
        if self.is_cut || !is_first {
            return false;
        }
        if is_length {
            let digits = value.iter().all(u8::is_ascii_digit).then_some(value);
            self.length = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
            return self.length.is_some();
        }
        self.is_chunked = value.eq_ignore_ascii_case(b"chunked");
        self.is_chunked
    }

    fn end_of_head(&mut self) -> At {
        match self.length {
            _ if self.is_chunked => At::ChunkSize,
            Some(length @ 1..) => At::Body(length),
            _ => self.begin(),
        }
    }

    /// The part that follows the line with a chunk's size.
    fn chunk(&mut self) -> At {
        let digits = self.line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let extension = self.line[digits..].trim_ascii_start();
        let is_size = (1..=MAX_SIZE_DIGITS).contains(&digits) && matches!(extension.first(), None | Some(b';'));
        let size = std::str::from_utf8(&self.line[..digits]);
        let size = size.ok().and_then(|size| u64::from_str_radix(size, 16).ok());
        match size.filter(|_| is_size) {
            None => At::Refused,
            Some(0) => At::Trailer,
            // A chunk includes its line end.
            Some(size) => At::Body(size + 2),
        }
    }

    /// The next request.
    fn begin(&mut self) -> At {
        (self.length, self.is_chunked) = (None, false);
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

    /// The same of a text that is refused at this place: the byte there is replaced, and all behind it.
    fn refused(text: &str, at: usize, piece: usize) -> String {
        let (before, rest) = text.split_at(at);
        assert_eq!(rest.as_bytes().first(), Some(&b'\n'), "{text:?}");
        let scanned = scanned(text, piece);
        assert!(scanned.starts_with(before), "{text:?}: {scanned:?}");
        scanned[at..].to_owned()
    }

    #[test]
    fn a_bare_line_feed_in_a_head_is_made_invalid() {
        for piece in [1, 2, 3, 7, 4096] {
            for text in [
                "GET / HTTP/1.1\nHost: hub\r\n\r\n",
                "GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n",
                "GET / HTTP/1.1\r\nA: b\r\n\n",
                "\nGET / HTTP/1.1\r\n\r\n",
            ] {
                let bare = (0..text.len()).find(|at| text[*at..].starts_with('\n') && !text[..*at].ends_with('\r'));
                let rest = refused(text, bare.unwrap(), piece);
                assert!(rest.bytes().all(|byte| byte == 0), "{text:?}: {rest:?}");
            }
            // Also after other requests on the same connection.
            let body = "{\n\"a\": 1\n}";
            let with_length = format!("{HEAD}content-length:  {} \r\n\r\n{body}", body.len());
            let chunked = format!(
                "{HEAD}Transfer-Encoding: Chunked\r\n\r\n{:x} ;a=b\r\n{body}\r\n0\r\nT: u\r\n\r\n",
                body.len()
            );
            let none = format!("{HEAD}\r\n");
            for whole in [&with_length, &chunked, &none, &format!("\r\n{none}")] {
                for before in [&with_length, &chunked, &none] {
                    let clear = format!("{before}{whole}");
                    let text = format!("{clear}GET / HTTP/1.1\nA: b\r\n\r\n");
                    let rest = refused(&text, clear.len() + "GET / HTTP/1.1".len(), piece);
                    assert!(rest.bytes().all(|byte| byte == 0), "{text:?}: {rest:?}");
                }
            }
        }
    }

    /// Nothing behind an ambiguous header, chunk or trailer is read as another request.
    #[test]
    fn unclear_requests_are_refused() {
        let cut = format!("Content-Length: {}5", " ".repeat(MAX_KEPT));
        let long = format!("Transfer-Encoding: chunked{}", " ".repeat(MAX_KEPT));
        // The line that is refused is the last one.
        for headers in [
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5\r\ncontent-length: 5",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 3",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: foo, chunked",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding:",
            &cut,
            &long,
        ] {
            let before = format!("{HEAD}{headers}\r");
            for piece in [1, 5, 4096] {
                let rest = refused(&format!("{before}\n\r\nbody\nGET / HTTP/1.1\n"), before.len(), piece);
                assert!(rest.bytes().all(|byte| byte == 0), "{headers}: {rest:?}");
            }
        }
        let connect = "CONNECT hub:1 HTTP/1.1\r";
        assert!(refused(&format!("{connect}\nHost: hub\r\n\r\n"), connect.len(), 7).starts_with('\0'));
        // A bare LF stays where the library refuses it.
        for (chunks, kept) in [
            ("2;a", "\n"),
            ("2;a\"", "\n"),
            ("2", "\n"),
            ("2 ", "\n"),
            ("0000000000000002\r", "\0"),
            ("zz\r", "\0"),
            ("2x\r", "\0"),
            ("\r", "\0"),
            ("0\r\nT: u", "\0"),
            ("0\r\n", "\0"),
            ("2\r\nab\r\n0\r\nT: u\r\n", "\0"),
        ] {
            let before = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{chunks}");
            for piece in [1, 5, 4096] {
                let rest = refused(
                    &format!("{before}\nab\r\n0\r\n\r\nGET / HTTP/1.1\n"),
                    before.len(),
                    piece,
                );
                assert!(rest.starts_with(kept), "{chunks}: {rest:?}");
                assert!(rest.bytes().skip(1).all(|byte| byte == 0), "{chunks}: {rest:?}");
            }
        }
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
