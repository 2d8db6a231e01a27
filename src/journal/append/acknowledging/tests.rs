//! The state after sequences of appends, probes and silences.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn full() -> Option<LogTrouble> {
    Some(LogTrouble::NoRoom("maximum bytes exceeded".into()))
}

/// Up by an append, at that time.
fn up(now: Instant) -> AckState {
    let mut known = AckState::new();
    known.acknowledged(now);
    known
}

#[test]
fn silence_counts_from_the_first_that_has_no_answer() {
    let began = Instant::now();
    let mut known = up(began);
    known.asked(&LogTrouble::NoAnswer, began);
    known.asked(&LogTrouble::NoStream, began + 2 * SECOND);
    known.look(began + KNOWN_AFTER - SECOND / 10);
    assert_eq!(known.trouble, None, "a restart of the server takes so long");
    known.look(began + KNOWN_AFTER);
    assert_eq!(known.trouble, Some(LogTrouble::NoStream));
    known.acknowledged(began + KNOWN_AFTER);
    assert_eq!(known.trouble, None);
    known.look(began + 10 * KNOWN_AFTER);
    assert_eq!(known.trouble, None, "nothing is without an answer");
}

#[test]
fn a_refusal_counts_at_once_and_one_append_a_second_is_a_trial() {
    let began = Instant::now();
    let mut known = up(began);
    known.refused("maximum bytes exceeded", 10, began);
    assert_eq!(known.trouble, full());
    let let_in = |known: &mut AckState, at| known.lets_in(at).is_ok();
    assert!(!let_in(&mut known, began), "it was just found out");
    assert!(let_in(&mut known, began + TRIAL_EVERY));
    assert!(!let_in(&mut known, began + TRIAL_EVERY));
    assert!(let_in(&mut known, began + 2 * TRIAL_EVERY));
    known.acknowledged(began + 2 * TRIAL_EVERY);
    assert!((0..3).all(|_| let_in(&mut known, began + 2 * TRIAL_EVERY)));
}

#[test]
fn a_wrong_probe_is_distrusted_for_a_while() {
    let began = Instant::now();
    let mut known = up(began);
    known.refused("maximum bytes exceeded", 10, began);
    known.question_passed(began + SECOND, began + SECOND);
    assert_eq!(known.trouble, None);
    known.refused("maximum bytes exceeded", 10, began + 2 * SECOND);
    known.question_passed(began + 3 * SECOND, began + 3 * SECOND);
    assert_eq!(known.trouble, full());
    known.question_passed(began + 2 * SECOND + DISTRUST, began + 2 * SECOND + DISTRUST);
    assert_eq!(known.trouble, None);
    // An append's result counts at any time.
    known.refused("maximum bytes exceeded", 10, began + 3 * SECOND + DISTRUST);
    known.acknowledged(began + 4 * SECOND + DISTRUST);
    assert_eq!(known.trouble, None);
}

/// As after the disk was full: questions pass, and no append is answered.
#[test]
fn silent_appends_outweigh_probes() {
    let began = Instant::now();
    let mut known = up(began);
    let sent = |known: &mut AckState, at| {
        known.asked(&LogTrouble::NoAnswer, at);
        known.appends.get_or_insert(at);
    };
    sent(&mut known, began);
    known.question_passed(began + SECOND, began + SECOND);
    known.look(began + 10 * SECOND);
    assert_eq!(known.trouble, None, "asked too soon to say anything");
    known.question_passed(began + ASKED_LATER, began + ASKED_LATER);
    assert_eq!(known.trouble, None, "a restart of the server takes so long");
    known.look(began + KNOWN_AFTER);
    assert_eq!(known.trouble, Some(LogTrouble::StoresNothing(None)));
    let later = began + KNOWN_AFTER + DISTRUST;
    known.question_passed(later - SECOND, later - SECOND);
    assert!(known.trouble.is_some(), "questions are not believed for a while");
    known.question_passed(later, later);
    assert_eq!(known.trouble, None, "one append must be let through as a trial");
    sent(&mut known, later);
    known.question_passed(later + ASKED_LATER, later + KNOWN_AFTER);
    assert_eq!(known.trouble, Some(LogTrouble::StoresNothing(None)));
    let again = later + KNOWN_AFTER + DISTRUST;
    known.question_passed(again, again);
    assert!(known.trouble.is_some(), "twice as long the second time");
    known.acknowledged(again);
    assert_eq!((known.trouble.clone(), known.distrust), (None, DISTRUST));
}

/// A server that was restarted is believed at once; one that says itself that it cannot write is believed against questions.
#[test]
fn a_new_connection_and_the_servers_report_count() {
    let began = Instant::now();
    let mut known = up(began);
    known.stores_nothing(Some("no space left on device".into()), began);
    known.question_passed(began + SECOND, began + SECOND);
    let said = known.trouble.as_ref().map(ToString::to_string).unwrap_or_default();
    assert!(
        said.contains("no space left") && said.contains("restart NATS"),
        "{said}"
    );
    known.forget_appends();
    known.question_passed(began + 2 * SECOND, began + 2 * SECOND);
    assert_eq!(known.trouble, None);
}

/// NATS is frozen: neither is answered, and appends and probes from before are no evidence afterwards.
#[test]
fn a_server_that_stood_still_is_believed_when_it_answers() {
    let began = Instant::now();
    let mut known = up(began);
    known.asked(&LogTrouble::NoAnswer, began);
    known.appends = Some(began);
    known.look(began + KNOWN_AFTER);
    assert_eq!(known.trouble, Some(LogTrouble::NoAnswer));
    known.question_passed(began + 9 * SECOND, began + 9 * SECOND);
    known.look(began + 20 * SECOND);
    assert_eq!(known.trouble, None);
}

#[test]
fn before_the_first_answer_it_is_not_up_and_refuses_nothing() {
    let began = Instant::now();
    let mut known = AckState::new();
    assert_eq!(
        (known.trouble.clone(), known.lets_in(began)),
        (Some(LogTrouble::NotAsked), Ok(()))
    );
    known.asked(&LogTrouble::NoConnection, began);
    known.look(began + KNOWN_AFTER);
    assert_eq!(known.lets_in(began + KNOWN_AFTER), Err(LogTrouble::NoConnection));
}

#[test]
fn an_id_that_is_recognised_does_not_show_that_anything_is_stored() {
    let began = Instant::now();
    let mut known = up(began);
    known.refused("maximum bytes exceeded", 10, began);
    known.recognised(began + SECOND);
    assert_eq!(known.trouble, full());
    known.stores_nothing(None, began + SECOND);
    known.recognised(began + 2 * SECOND);
    assert_eq!(known.trouble, Some(LogTrouble::StoresNothing(None)));

    let mut known = up(began);
    known.asked(&LogTrouble::NoAnswer, began);
    known.look(began + KNOWN_AFTER);
    assert_eq!(known.trouble, Some(LogTrouble::NoAnswer));
    known.recognised(began + KNOWN_AFTER);
    assert_eq!(known.trouble, None, "it answers again");
}
