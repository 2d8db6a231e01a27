//! What `make bench` concludes from its figures: medians and spreads, what is more than chance, whether the machine was busy, and which
//! runs it refuses to compare.

#[path = "../benches/results/mod.rs"]
#[allow(dead_code, reason = "the bench uses the rest of it")]
mod results;

use std::path::Path;

use results::{
    Results,
    compare::{self, Said, compare},
    machine::{Fingerprint, file_system},
    row::{Goal, Row, Samples},
    statistics::{Spread, Verdict, movement},
    steady::Rounds,
    yardstick::{self, Yardstick},
};

fn spread(figures: &[f64]) -> Spread {
    Spread::of(figures).unwrap()
}

fn machine() -> Fingerprint {
    Fingerprint {
        cores: 2,
        cpu: "Xeon".to_owned(),
        memory_bytes: 24 << 30,
        kernel: "6.1.0".to_owned(),
        store: "ext4".to_owned(),
        profile: "release".to_owned(),
        seconds: 6.0,
        yardstick: yardstick::VERSION,
    }
}

const EVEN: Yardstick = Yardstick { one: 1.0, all: 1.0 };

/// A run in which one figure was taken, on a CPU of this speed.
fn run(what: &str, unit: &str, taken: &[f64], speed: f64) -> Results {
    let mut samples = Samples::new("section");
    for figure in taken {
        samples.add(what, *figure, unit);
    }
    let mut results = Results::new("2026-01-01".to_owned(), machine());
    results.note_part(&[Yardstick { one: speed, all: speed }; 2]);
    results.rows = samples.into_rows();
    results.normalise(0, 0);
    results
}

fn said(earlier: &Results, now: &Results) -> Said {
    let compared = compare(earlier, now).unwrap();
    assert_eq!(compared.len(), 1);
    compared[0].said
}

#[test]
fn a_figure_is_a_median_with_its_spread() {
    let of_three = spread(&[30.0, 10.0, 20.0]);
    assert_eq!(
        (of_three.median, of_three.least, of_three.most, of_three.taken),
        (20.0, 10.0, 30.0, 3)
    );
    assert_eq!(of_three.relative(), 1.0);
    assert_eq!(spread(&[40.0, 10.0, 20.0, 30.0]).median, 25.0);
    assert_eq!(spread(&[7.0]).relative(), 0.0);
    assert_eq!(spread(&[0.0, 0.0, 0.0]).relative(), 0.0);
    assert_eq!(spread(&[10.0, 20.0, 30.0]).times(2.0), spread(&[20.0, 40.0, 60.0]));
}

#[test]
fn values_that_are_no_numbers_are_no_figures() {
    assert_eq!(Spread::of(&[]), None);
    assert_eq!(Spread::of(&[1.0, f64::NAN, 2.0]), None);
    assert_eq!(Spread::of(&[1.0, f64::INFINITY]), None);
    let mut samples = Samples::new("section");
    samples.add("share", 1.0, "").wants(Goal::AtMost(2.0));
    assert_eq!(samples.rows()[0].pass(), Some(true));
    samples.add("share", f64::NAN, "");
    assert_eq!(samples.rows()[0].pass(), Some(false), "one take of it failed");
}

#[test]
fn a_difference_counts_only_if_the_takes_do_not_overlap() {
    let figures = spread(&[100.0, 110.0, 105.0]);
    for (other, verdict) in [
        ([111.0, 120.0, 115.0], Verdict::Beyond),
        ([99.0, 90.0, 95.0], Verdict::Beyond),
        ([110.0, 120.0, 115.0], Verdict::Within),
        ([90.0, 130.0, 125.0], Verdict::Within),
    ] {
        assert_eq!(Verdict::of(&figures, &spread(&other)), verdict, "{other:?}");
        assert_eq!(
            Verdict::of(&spread(&other), &figures),
            verdict,
            "{other:?}, the other way round"
        );
    }
    for few in [&[500.0][..], &[500.0, 510.0]] {
        assert_eq!(Verdict::of(&figures, &spread(few)), Verdict::TooFew);
        assert_eq!(Verdict::of(&spread(few), &figures), Verdict::TooFew);
    }
}

#[test]
fn a_run_in_which_the_yardstick_moved_is_not_usable() {
    assert!(movement(&[1.0]).is_infinite(), "one look knows of no movement");
    let at = |speed: f64| Yardstick { one: speed, all: speed };
    let mut results = Results::new("2026-01-01".to_owned(), machine());
    assert!(!results.usable);
    results.note_part(&[EVEN, at(0.9)]);
    assert!(results.usable && results.warning().is_none());
    // Parts at different speeds are each at one.
    results.note_part(&[at(0.7), at(0.75)]);
    assert!(results.usable);
    // One core alone moved. The next part does not mend the run.
    results.note_part(&[EVEN, Yardstick { one: 0.8, all: 1.0 }]);
    assert!(!results.usable);
    results.note_part(&[EVEN, EVEN]);
    assert!(!results.usable);
    let warning = results.warning().unwrap();
    assert!(
        warning.contains("NOT USABLE") && warning.contains("moved by 22 %"),
        "{warning}"
    );
    let mut taken_once = Results::new("2026-01-01".to_owned(), machine());
    taken_once.note_part(&[EVEN]);
    assert!(!taken_once.usable);

    let usable = run("figure", "orders/s", &[1.0, 1.0, 1.0], 1.0);
    let busy = Results {
        usable: false,
        ..usable.clone()
    };
    assert_eq!(said(&usable, &usable), Said::Judged(Verdict::Within));
    assert_eq!(said(&busy, &usable), Said::NotUsable);
    assert_eq!(said(&usable, &busy), Said::NotUsable);
    assert!(results::table::of_rows(&busy.rows, busy.usable).contains("NOT USABLE"));
}

#[test]
fn a_yardstick_that_could_not_be_taken_makes_the_run_unusable() {
    let failed = Yardstick {
        one: 1.0,
        all: f64::NAN,
    };
    let mut results = Results::new("2026-01-01".to_owned(), machine());
    results.note_part(&[EVEN, failed]);
    results.note_part(&[EVEN, EVEN]);
    assert!(!results.usable);
    let mut rounds = Rounds::new(1, EVEN);
    assert!(!rounds.end(failed) && !rounds.end(EVEN) && rounds.end(EVEN));
}

/// What a round in which the CPU changed its speed says is left out, and another round is taken.
#[test]
fn only_rounds_at_one_speed_count() {
    let at = |speed: f64| Yardstick { one: speed, all: speed };
    let mut rounds = Rounds::new(2, at(1.0));
    let mut samples = Samples::new("section");
    for (figure, speed, counts) in [(10.0, 1.1, true), (99.0, 1.5, false), (20.0, 1.4, true)] {
        assert!(rounds.are_due());
        let mut round = Samples::new("section");
        round.add("figure", figure, "").wants(Goal::AtMost(15.0));
        assert_eq!(rounds.end(at(speed)), counts, "{figure}");
        if counts {
            samples.take_in(round);
        }
    }
    assert!(!rounds.are_due());
    assert_eq!(
        (samples.rows()[0].taken.as_slice(), samples.rows()[0].pass()),
        (&[10.0, 20.0][..], Some(true))
    );
    let mut results = Results::new("2026-01-01".to_owned(), machine());
    results.note_rounds("part", rounds);
    assert!(results.usable, "{:?}", results.warning());
    assert_eq!((results.left_out, results.yardsticks.len()), (1, 4));
    // A change in the middle counts, too, and it does not go on for ever.
    let mut rounds = Rounds::new(1, at(1.0));
    let mut taken = 0;
    while rounds.are_due() {
        rounds.look(at(0.5));
        assert!(!rounds.end(at(1.0)));
        taken += 1;
    }
    assert_eq!(taken, 4);
    results.note_rounds("another part", rounds);
    let warning = results.warning().unwrap();
    assert!(!results.usable && warning.contains("another part"), "{warning}");
}

#[test]
fn figures_that_go_with_the_cpu_are_divided_by_its_speed() {
    let median = |unit: &str, speed: f64| {
        let row: Row = run("figure", unit, &[100.0, 100.0, 100.0], speed).rows.remove(0);
        row.normalised.map(|spread| spread.median)
    };
    assert_eq!(median("µs", 0.5), Some(50.0), "a slow CPU takes longer");
    assert_eq!(median("orders/s", 0.5), Some(200.0), "a slow CPU does less");
    for unit in ["ms", "", "MB", "bytes", "s"] {
        assert_eq!(median(unit, 0.5), None, "{unit}");
    }
    let mut samples = Samples::new("section");
    samples.add("figure", 100.0, "µs").on_one_core = true;
    let mut row = samples.into_rows().remove(0);
    row.normalise(Yardstick { one: 2.0, all: 0.5 });
    assert_eq!(row.normalised.unwrap().median, 200.0);
}

#[test]
fn the_same_build_on_a_cpu_of_another_speed_is_no_difference() {
    let earlier = run("figure", "orders/s", &[1000.0, 1010.0, 990.0], 1.0);
    let now = run("figure", "orders/s", &[500.0, 505.0, 495.0], 0.5);
    let compared = compare(&earlier, &now).unwrap();
    assert_eq!((compared[0].ratio, compared[0].normalised), (0.5, Some(1.0)));
    assert_eq!(compared[0].said, Said::Judged(Verdict::Within));
    // What cannot be divided by the speed is not judged; what does not depend on it is.
    let latency = |speed| run("figure", "ms", &[1.0, 1.1, 1.2], speed);
    assert_eq!(said(&latency(1.0), &latency(0.5)), Said::OtherSpeed);
    assert_eq!(said(&latency(1.0), &latency(0.95)), Said::Judged(Verdict::Within));
    let share = |taken: &[f64], speed| run("figure", "", taken, speed);
    let (before, after) = (share(&[0.5, 0.51, 0.52], 1.0), share(&[0.6, 0.61, 0.62], 0.5));
    assert_eq!(said(&before, &after), Said::Judged(Verdict::Beyond));
}

#[test]
fn runs_of_two_machines_or_made_in_two_ways_are_refused() {
    let now = run("figure", "ms", &[1.0, 1.0, 1.0], 1.0);
    type Change = fn(&mut Fingerprint);
    let changes: [(Change, &str); 8] = [
        (|one| one.cpu = "EPYC".to_owned(), "CPU model: EPYC then, Xeon now"),
        (|one| one.cores = 4, "cores: 4 then, 2 now"),
        (|one| one.memory_bytes *= 2, "memory: 48.0 GiB then, 24.0 GiB now"),
        (|one| one.kernel = "6.2.0".to_owned(), "kernel: 6.2.0 then, 6.1.0 now"),
        (
            |one| one.store = "tmpfs".to_owned(),
            "file system of the store: tmpfs then, ext4 now",
        ),
        (
            |one| one.profile = "debug".to_owned(),
            "profile: debug then, release now",
        ),
        (|one| one.seconds = 1.0, "seconds of a run: 1 then, 6 now"),
        (|one| one.yardstick += 1, "version of the yardstick"),
    ];
    for (change, expected) in changes {
        let mut earlier = now.clone();
        change(&mut earlier.fingerprint);
        let message = compare(&earlier, &now).unwrap_err().to_string();
        assert!(
            message.contains("cannot be compared") && message.contains(expected),
            "{message}"
        );
        assert!(compare::text(&earlier, &now).is_err() && compare::refuse(&earlier, &now).is_err());
    }
    let mut earlier = now.clone();
    (earlier.commit, earlier.date) = (Some("another".to_owned()), "2025-01-01".to_owned());
    earlier.fingerprint.memory_bytes += 64 << 20;
    assert_eq!(
        compare(&earlier, &now).unwrap().len(),
        1,
        "a kernel reserves a little more or less"
    );
}

#[test]
fn a_run_that_was_saved_is_read_again_and_one_of_another_form_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs/one.json");
    let mut saved = run("figure", "µs", &[3.0, 1.0, 2.0], 0.5);
    saved.rows[0].wants(Goal::AtLeast(1.0));
    saved.write(&path).unwrap();
    let read = Results::read(&path).unwrap();
    assert_eq!(
        serde_json::to_value(&read).unwrap(),
        serde_json::to_value(&saved).unwrap()
    );
    assert_eq!(read.rows[0].taken, [3.0, 1.0, 2.0]);
    assert_eq!(read.rows[0].spread, Some(spread(&[1.0, 2.0, 3.0])));
    let text = compare::text(&read, &saved).unwrap();
    assert!(text.contains("within the spread") && text.contains("1.000"), "{text}");

    // As the bench wrote it before it had a form.
    std::fs::write(&path, r#"{"date":"2026-01-01","rows":[]}"#).unwrap();
    let message = format!("{:#}", Results::read(&path).unwrap_err());
    assert!(message.contains("form 0"), "{message}");
}

#[test]
fn a_figure_of_one_run_alone_is_named() {
    let mut earlier = run("figure", "ms", &[1.0, 1.0, 1.0], 1.0);
    let now = earlier.clone();
    earlier.rows[0].what = "older figure".to_owned();
    let text = compare::text(&earlier, &now).unwrap();
    assert!(text.contains("only in this run: section: figure"), "{text}");
    assert!(
        text.contains("only in the earlier run: section: older figure"),
        "{text}"
    );
}

#[test]
fn a_missing_figure_has_a_reason_and_reaches_no_goal() {
    let mut samples = Samples::new("node");
    samples
        .not_measured("share", "no Node.js", "")
        .wants(Goal::AtLeast(1.8));
    assert_eq!(samples.rows()[0].pass(), None);
    let table = results::table::of_rows(samples.rows(), true);
    assert!(
        table.contains("not measured: no Node.js") && !table.contains("MISSED"),
        "{table}"
    );
}

#[test]
fn the_file_system_of_a_folder_is_that_of_the_nearest_mount_point() {
    let mounts = "overlay / overlay rw 0 0\n/dev/a /data ext4 rw 0 0\ntmpfs /data/deep tmpfs rw 0 0\n\
                  /dev/b /data/deep xfs rw 0 0\nproc /proc proc rw 0 0\n";
    for (folder, kind) in [
        ("/srv", "overlay"),
        ("/database", "overlay"),
        ("/data/here", "ext4"),
        ("/data/deep/down", "xfs"),
    ] {
        assert_eq!(
            file_system(mounts, Path::new(folder)).as_deref(),
            Some(kind),
            "{folder}"
        );
    }
    assert_eq!(file_system("", Path::new("/srv")), None);
}

#[test]
fn the_yardstick_measures_the_cpus_speed() {
    let look = Yardstick::take();
    assert!(
        look.one.is_finite() && look.one > 0.0 && look.all.is_finite() && look.all > 0.0,
        "{look:?}"
    );
    assert!(yardstick::parses());
}
