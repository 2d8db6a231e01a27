//! The targets of the fuzzer on the corpus and on what a few changes make of it. `make fuzz` looks for long; this only
//! sees to it that what was found once is not found again. What libFuzzer finds goes into `tests/corpus/` as a file.

use std::{fs, path::Path};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

mod targets;

use self::targets::TARGETS;

/// Changed inputs of each target; all of them together take some seconds.
const CASES: u32 = 4_000;
/// Most changes of one input.
const MAX_CHANGES: usize = 8;
/// Pieces that are worth putting anywhere.
const PIECES: [&[u8]; 16] = [
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"\n\n",
    b"\\u0000",
    b"\\ud800",
    b"<script>",
    b"1e400",
    b"\xff",
    b"\0",
    b"null",
    b"\"id\":",
];

/// One change of an input.
#[derive(Debug, Clone)]
enum Change {
    Byte(prop::sample::Index, u8),
    Piece(prop::sample::Index, usize),
    Cut(prop::sample::Index, usize),
    Twice(prop::sample::Index, usize),
}

impl Change {
    fn any() -> impl Strategy<Value = Self> {
        let at = any::<prop::sample::Index>;
        prop_oneof![
            (at(), any::<u8>()).prop_map(|(at, byte)| Self::Byte(at, byte)),
            (at(), 0..PIECES.len()).prop_map(|(at, piece)| Self::Piece(at, piece)),
            (at(), 1..64usize).prop_map(|(at, length)| Self::Cut(at, length)),
            (at(), 1..64usize).prop_map(|(at, length)| Self::Twice(at, length)),
        ]
    }

    fn apply(&self, data: &mut Vec<u8>) {
        let place = |at: &prop::sample::Index| at.index(data.len() + 1);
        match self {
            Self::Byte(at, byte) => {
                let at = place(at);
                data.splice(at..(at + 1).min(data.len()), [*byte]);
            }
            Self::Piece(at, piece) => {
                let at = place(at);
                data.splice(at..at, PIECES[*piece].iter().copied());
            }
            Self::Cut(at, length) => {
                let at = place(at);
                data.drain(at..(at + length).min(data.len()));
            }
            Self::Twice(at, length) => {
                let at = place(at);
                let piece = data[at..(at + length).min(data.len())].to_vec();
                data.splice(at..at, piece);
            }
        }
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() > 3, "{} is as good as empty", folder.display());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

fn fuzz(name: &str) {
    let (_, target) = TARGETS.into_iter().find(|(one, _)| *one == name).unwrap();
    let corpus = corpus(name);
    for input in &corpus {
        target(input);
    }
    let changes = prop::collection::vec(Change::any(), 1..MAX_CHANGES);
    let inputs = prop_oneof![
        9 => (prop::sample::select(corpus), changes).prop_map(|(mut data, changes)| {
            changes.iter().for_each(|change| change.apply(&mut data));
            data
        }),
        1 => prop::collection::vec(any::<u8>(), 0..256),
    ];
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&inputs, |data| {
        target(&data);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{name}: {error}");
    }
}

#[test]
fn signatures() {
    fuzz("signature");
}

#[test]
fn bodies() {
    fuzz("intake");
}

#[test]
fn orders() {
    fuzz("transform");
}

#[test]
fn addresses() {
    fuzz("forwarded_for");
}

#[test]
fn texts() {
    fuzz("sanitise");
}
