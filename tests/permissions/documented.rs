//! The table of rights in SECURITY.md says what `nats.conf` allows.

use super::Tried;
use crate::harness::servers::Nats;

/// The users in the order of the columns of SECURITY's table of rights.
const USERS: [&str; 4] = ["provision", "backup", "hub", "subscriber"];

/// A line of SECURITY's table of rights.
struct Right {
    listens: bool,
    subjects: Vec<String>,
    /// Who has it, by [`USERS`].
    has: [bool; 4],
}

/// The texts between `mark`s.
fn between(text: &str, mark: char) -> Vec<String> {
    text.split(mark).skip(1).step_by(2).map(str::to_owned).collect()
}

fn table_of_rights() -> Vec<Right> {
    let security = include_str!("../../SECURITY.md");
    let (_, table) = security
        .split_once("| right | subjects | provision | backup | hub | subscriber |")
        .unwrap();
    let lines = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let right = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 6, "{line}");
        assert!(
            cells[0].starts_with("publish") || cells[0].starts_with("listen"),
            "{line}"
        );
        let has = |column: usize| match cells[column] {
            "yes" => true,
            "no" => false,
            other => panic!("{other} in {line}"),
        };
        Right {
            listens: cells[0].starts_with("listen"),
            subjects: between(cells[1], '`'),
            has: [has(2), has(3), has(4), has(5)],
        }
    };
    lines.map(right).collect()
}

/// What `nats.conf` allows these users: the user, whether it is to listen, the subject.
pub(crate) fn rights_of_the_server() -> Vec<(String, bool, String)> {
    let config = include_str!("../../nats.conf");
    let (mut user, mut listens, mut rights) = (String::new(), false, Vec::new());
    for line in config.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("user: ") {
            user = name.to_owned();
        }
        listens = !line.starts_with("publish:") && (listens || line.starts_with("subscribe:"));
        if USERS.contains(&user.as_str()) && !line.contains("deny") {
            rights.extend(
                between(line, '"')
                    .into_iter()
                    .map(|subject| (user.clone(), listens, subject)),
            );
        }
        if line == "}" && listens {
            user.clear();
        }
    }
    rights
}

/// SECURITY's table names every right that the server gives, and the server gives what the table says, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_match_nats_conf() {
    let table = table_of_rights();
    assert!(table.len() > 10);
    for (user, listens, subject) in rights_of_the_server() {
        let column = USERS.iter().position(|one| *one == user).unwrap();
        let in_table = table
            .iter()
            .any(|right| right.listens == listens && right.has[column] && right.subjects.contains(&subject));
        assert!(
            in_table,
            "nats.conf lets {user} use {subject} (listening: {listens}); SECURITY.md does not say so"
        );
    }
    // Without streams: nothing that is asked for has an effect.
    let nats = Nats::start().await;
    for (column, user) in USERS.iter().enumerate() {
        let mut tried = Tried::by(&nats, user).await;
        for right in &table {
            for subject in &right.subjects {
                let _subscription = if right.listens {
                    Some(tried.client.subscribe(subject.clone()).await.unwrap())
                } else {
                    let one = subject.replace('*', "x").replace('>', "x.x");
                    tried.client.publish(one.clone(), "{}".into()).await.unwrap();
                    None
                };
                match (right.has[column], right.listens) {
                    // What is refused next is the first thing that is refused.
                    (true, _) => tried.cannot_publish(&["$JS.FENCE".to_owned()]).await,
                    (false, true) => tried.refused("subscription to", subject).await,
                    (false, false) => {
                        let one = subject.replace('*', "x").replace('>', "x.x");
                        tried.refused("publish to", &one).await;
                    }
                }
            }
        }
    }
}
