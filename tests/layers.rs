//! The rooms of the program: each knows only those that `src/lib.rs` lists before it, so that no two know each other in a circle.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Behind this line of a file stand its tests, which may know everything.
const TESTS: &str = "#[cfg(test)]\nmod ";

/// A use of a room by a file of another.
#[derive(Debug, Clone)]
struct Use {
    /// The room that uses it.
    by: String,
    room: String,
    file: String,
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && name != "tests" {
            found.push(path);
        }
    }
}

/// The rooms that a file's text names, without comments and tests.
fn rooms_named(text: &str) -> BTreeSet<String> {
    let code = text.split(TESTS).next().unwrap();
    let code: String = code
        .lines()
        .flat_map(|line| [line.split("//").next().unwrap(), "\n"])
        .collect();
    let mut rooms = BTreeSet::new();
    for (at, found) in code.match_indices("crate::") {
        let is_whole = !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
        let path = &code[at + found.len()..];
        if is_whole {
            rooms.extend(heads(path).into_iter().map(str::to_owned));
        }
    }
    rooms
}

/// The first names of a path, or of each path of a group.
fn heads(path: &str) -> Vec<&str> {
    let name = |text: &str| {
        text.find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(text.len())
    };
    let Some(group) = path.strip_prefix('{') else {
        return vec![&path[..name(path)]];
    };
    let (mut depth, mut heads, mut is_begin) = (0, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_begin = true,
            c if is_begin && !c.is_whitespace() => {
                heads.push(&group[at..at + name(&group[at..])]);
                is_begin = false;
            }
            _ => {}
        }
    }
    heads
}

/// The rooms in the order of `lib.rs`.
fn order(lib: &str) -> Vec<String> {
    let rooms = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    rooms.map(str::to_owned).collect()
}

/// What is used before it is listed.
fn upwards(order: &[String], uses: Vec<Use>) -> Vec<Use> {
    let place = |room: &str| order.iter().position(|one| one == room);
    let is_upwards = |one: &Use| one.by != one.room && place(&one.room).is_none_or(|room| Some(room) > place(&one.by));
    uses.into_iter().filter(is_upwards).collect()
}

fn used(by: &str, file: &str, text: &str) -> Vec<Use> {
    let uses = rooms_named(text).into_iter().map(|room| Use {
        by: by.to_owned(),
        room,
        file: file.to_owned(),
    });
    uses.collect()
}

#[test]
fn modules_use_only_earlier_ones() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let order = order(&fs::read_to_string(source.join("lib.rs")).unwrap());
    assert!(order.len() > 20, "{order:?}");
    let mut files = Vec::new();
    sources(&source, &mut files);
    let mut uses = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&source).unwrap().to_string_lossy().into_owned();
        let by = inside.split(['/', '.']).next().unwrap();
        if !["lib", "main"].contains(&by) {
            assert!(order.iter().any(|room| room == by), "{inside} is in no room of lib.rs");
            uses.extend(used(by, &inside, &fs::read_to_string(&file).unwrap()));
        }
    }
    assert!(uses.len() > 300, "found only {} uses", uses.len());
    let upwards = upwards(&order, uses).into_iter();
    let upwards: Vec<_> = upwards.map(|one| format!("{} uses {}", one.file, one.room)).collect();
    assert!(
        upwards.is_empty(),
        "lib.rs lists what is used after its user: {upwards:#?}"
    );
}

#[test]
fn a_circle_is_found() {
    let lib = "//! Rooms.\npub mod low;\npub mod high;\nmod tests;\n";
    let low = "use crate::{\n    high::{self, deep::Thing},\n    low::Own,\n};\n";
    let high = "// crate::top is a comment\nfn of() -> crate::low::Low {}\n#[cfg(test)]\nmod tests { use crate::top; }";
    assert_eq!(rooms_named(low).into_iter().collect::<Vec<_>>(), ["high", "low"]);
    assert_eq!(rooms_named(high).into_iter().collect::<Vec<_>>(), ["low"]);
    let uses = [used("low", "low.rs", low), used("high", "high.rs", high)].concat();
    let found = upwards(&order(lib), uses);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].by.as_str(), found[0].room.as_str()), ("low", "high"));
}
