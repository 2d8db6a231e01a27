//! The sink of log lines: a bounded queue and a thread that writes it to standard output.
//!
//! Logging never blocks and never fails: a slow reader, a closed pipe and a full disk cost lines, not requests. Lost lines
//! are counted, and the log says how many were lost as soon as it can be written again.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait to be written: a burst of some seconds at `LOG_LEVEL=debug` under full load.
const MAX_LINES: usize = 16_384;
/// Bytes of them. One line has some 300; with a reader that stands still the hub keeps this much and no more.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Pause where the output takes nothing just now (a non-blocking terminal or pipe).
const NOT_NOW: Duration = Duration::from_millis(10);
/// Shortest pause between two lines about lost lines.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Lines that were lost since the process began.
#[derive(Debug, Default)]
pub struct Lost {
    full: AtomicU64,
    unwritable: AtomicU64,
}

impl Lost {
    /// Because the queue was full: the reader is too slow.
    pub fn full(&self) -> u64 {
        self.full.load(Ordering::Relaxed)
    }

    /// Because the output refused them: a closed pipe, a full disk.
    pub fn unwritable(&self) -> u64 {
        self.unwritable.load(Ordering::Relaxed)
    }

    fn all(&self) -> u64 {
        self.full() + self.unwritable()
    }
}

enum SinkMessage {
    Line(Vec<u8>),
    /// Everything before it is to be written; the sender is dropped when it was.
    Flush(SyncSender<()>),
}

/// The queue. Clones share it.
#[derive(Debug, Clone)]
pub struct Sink {
    items: SyncSender<SinkMessage>,
    /// Bytes that wait.
    waiting: Arc<AtomicUsize>,
    lost: Arc<Lost>,
}

impl Sink {
    /// A queue before this output, and the thread that writes.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let (items, from) = sync_channel(MAX_LINES);
        let sink = Self {
            items,
            waiting: Arc::default(),
            lost: Arc::default(),
        };
        let mut writing = Writing {
            output,
            waiting: Arc::clone(&sink.waiting),
            lost: Arc::clone(&sink.lost),
            is_cut: false,
        };
        std::thread::Builder::new()
            .name("logs".into())
            .spawn(move || writing.run(&from))?;
        Ok(sink)
    }

    /// How many lines were lost.
    pub fn lost(&self) -> &Lost {
        &self.lost
    }

    /// Waits until what was logged so far is written, at most so long. Blocks; for the end of the process.
    pub fn flush(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let (done, written) = sync_channel(1);
        let mut item = SinkMessage::Flush(done);
        while let Err(TrySendError::Full(back)) = self.items.try_send(item) {
            if Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(NOT_NOW);
            item = back;
        }
        // An error also ends the wait: the lines were written, or the writer has ended.
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }

    fn put(&self, line: &[u8]) {
        let before = self.waiting.fetch_add(line.len(), Ordering::Relaxed);
        let fits = before + line.len() <= MAX_BYTES && self.items.try_send(SinkMessage::Line(line.to_vec())).is_ok();
        if !fits {
            self.waiting.fetch_sub(line.len(), Ordering::Relaxed);
            self.lost.full.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One event's line.
pub struct Line<'a>(&'a Sink);

impl Write for Line<'_> {
    /// The subscriber hands over a whole line at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(self)
    }
}

/// The thread's side.
struct Writing<W> {
    output: W,
    waiting: Arc<AtomicUsize>,
    lost: Arc<Lost>,
    /// The last line was written in part, so that the next one must begin on a new line.
    is_cut: bool,
}

impl<W: Write> Writing<W> {
    fn run(&mut self, from: &Receiver<SinkMessage>) {
        let (mut reported, mut looked) = (0, Instant::now());
        loop {
            let item = match from.recv_timeout(REPORT_EVERY) {
                Ok(SinkMessage::Flush(_done)) => continue,
                Ok(SinkMessage::Line(line)) => Some(line),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let is_written = item.is_some_and(|line| {
                let written = self.write(&line);
                self.waiting.fetch_sub(line.len(), Ordering::Relaxed);
                if written.is_err() {
                    self.lost.unwritable.fetch_add(1, Ordering::Relaxed);
                }
                written.is_ok()
            });
            let lost = self.lost.all();
            if is_written && lost > reported && looked.elapsed() >= REPORT_EVERY {
                (reported, looked) = (lost, Instant::now());
                let (full, unwritable) = (self.lost.full(), self.lost.unwritable());
                tracing::warn!(
                    full,
                    unwritable,
                    "log lines were lost since the start: standard output was too slow, or refused them"
                );
            }
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_cut {
            self.all(b"\n")?;
        }
        self.is_cut = false;
        self.all(line)
    }

    fn all(&mut self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            match self.output.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    rest = &rest[count..];
                    self.is_cut = !rest.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(NOT_NOW),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The process's standard output, without the buffer of the standard library, which keeps what could not be written.
pub struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(rustix::stdio::stdout(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// An output that takes what the script allows, then everything.
    struct Scripted {
        /// How many bytes of each write are taken, or why none is.
        script: Vec<Result<usize, io::ErrorKind>>,
        written: Arc<Mutex<Vec<u8>>>,
        /// Nothing is written before the test allows it.
        held: Option<mpsc::Receiver<()>>,
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(held) = self.held.take() {
                held.recv().unwrap();
            }
            let count = match self.script.is_empty() {
                true => bytes.len(),
                false => self.script.remove(0)?.min(bytes.len()),
            };
            self.written.lock().unwrap().extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn sink(script: &[Result<usize, io::ErrorKind>], held: Option<mpsc::Receiver<()>>) -> (Sink, Arc<Mutex<Vec<u8>>>) {
        let written = Arc::new(Mutex::new(Vec::new()));
        let output = Scripted {
            script: script.to_vec(),
            written: Arc::clone(&written),
            held,
        };
        (Sink::start(output).unwrap(), written)
    }

    #[test]
    fn refused_lines_are_counted_and_the_next_line_is_complete() {
        let full = Err(io::ErrorKind::StorageFull);
        let script = [
            full,
            Ok(3),
            full,
            Err(io::ErrorKind::WouldBlock),
            Err(io::ErrorKind::Interrupted),
        ];
        let (sink, written) = sink(&script, None);
        for line in ["first\n", "second\n", "third\n"] {
            sink.put(line.as_bytes());
        }
        sink.flush(PATIENCE);
        assert_eq!(String::from_utf8_lossy(&written.lock().unwrap()), "sec\nthird\n");
        assert_eq!((sink.lost().unwritable(), sink.lost().full()), (2, 0));
        assert_eq!(sink.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_no_time() {
        let (release, held) = mpsc::channel();
        let (sink, written) = sink(&[], Some(held));
        let line = [b'x'; 1024];
        let count = MAX_BYTES / line.len();
        for _ in 0..count + 100 {
            sink.put(&line);
        }
        assert_eq!(sink.lost().full(), 100, "bytes are bounded");
        // `flush` gives up in time, and the waiting lines are written later.
        let began = Instant::now();
        sink.flush(Duration::from_millis(50));
        assert!(began.elapsed() < PATIENCE);
        release.send(()).unwrap();
        sink.flush(PATIENCE);
        assert_eq!(written.lock().unwrap().len(), count * line.len());
        for _ in 0..MAX_LINES {
            sink.put(b"\n");
        }
        sink.flush(PATIENCE);
        assert_eq!(sink.waiting.load(Ordering::Relaxed), 0);
    }
}
