//! What is removed, what stays, and that nothing can be hidden from the cleaning.

use std::time::Instant;

use proptest::prelude::*;

use super::*;

#[test]
fn ordinary_text_stays_and_is_borrowed() {
    for text in [
        "",
        "Tom & Jerry's <3",
        "5 < 6 > 4",
        "onion=extra",
        "on time = now",
        "only = no onions, once = 1",
        "<no onions, I am allergic>",
        "<b>big</b>".trim_end_matches("</b>"),
        "a <lot> of sauce",
        "Tom <tom@example.com>",
        "12:30, http://maps.example/?q=31.95,35.91",
        "scripts and javascript are fine",
        "JavaScript : the good parts",
        "أحمد علي – شارع الملك عبدالله، عمّان",
        "می‌خواهم پیاز نداشته باشد",
        "\u{200f}طلب ١\u{200e} (A1)",
        "👨‍👩‍👧‍👦 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ❤️ 🇯🇴",
        "two\nlines\tand a tab",
        "e\u{301} ñ 漢字",
        "ends with <",
        "money: $5 = 5%",
        "</3",
    ] {
        assert!(
            matches!(sanitise(text), Cow::Borrowed(same) if same == text),
            "{text:?}"
        );
    }
}

#[test]
fn active_markup_is_removed() {
    for (text, kept) in [
        ("Anna\0", "Anna"),
        ("\u{1b}[2J\u{1b}@Ring\u{7}", "[2J@Ring"),
        ("two\r\nlines\rthree\u{2028}four\u{85}", "two\nlines\nthree\nfour"),
        ("\u{feff}abc\u{202e}cba\u{202c}\u{2066}x\u{2069}", "abccbax"),
        ("hidden\u{e0041}\u{e0042}", "hidden"),
        ("<script>alert(1)</script>Anna", "Anna"),
        ("no <SCRIPT src=//x >a</b</Script\n >onions", "no onions"),
        ("<scr<script>x</script>ipt>alert(1)", "script>alert(1)"),
        ("<script>alert(1)", "script>alert(1)"),
        ("</script><script>", "/script>script>"),
        ("<scri\0pt>alert(1)</script>", ""),
        ("<<<<img src=x>", "img src=x>"),
        ("<for<meta", "formeta"),
        ("<b>big</b>", "<b>big/b>"),
        ("<iframe/src=x>", "iframe/src=x>"),
        ("<svg/onload=alert(1)>", "svg/alert(1)>"),
        ("<x ONCLICK\n=\n'a'>", "<x \n'a'>"),
        ("\" onmouseover=\"alert(1)", "\" \"alert(1)"),
        ("onclick=onclick=x", "x"),
        ("see javascript:alert(1)", "see alert(1)"),
        ("java\tscr\nipt:alert(1)", "alert(1)"),
        ("JavaScript\0:x vbscript:y", "x y"),
        ("javasjavascript:cript:x", "x"),
        ("data:text/html,<b>", ",<b>"),
        ("<!-- <?php", "!-- ?php"),
    ] {
        assert_eq!(sanitise(text), kept, "{text:?}");
    }
}

/// Longer words that end like a handler, and handlers of other attributes, are none.
#[test]
fn handlers_are_whole_words() {
    assert!(EVENTS.is_sorted());
    let longest = EVENTS.iter().map(|event| event.len()).max().unwrap();
    assert_eq!(MAX_HANDLER_BYTES, longest + "on".len() + 1);
    assert_eq!(MAX_MARKUP_BYTES, MARKUP.iter().map(|one| one.len()).max().unwrap());
    for text in [
        "ononclick=1",
        "data-onclick=1",
        "my_onload=1",
        "on=1",
        "onclicks=1",
        "=",
        " =",
    ] {
        assert_eq!(sanitise(text), text);
    }
}

#[test]
fn long_text_is_cut_and_reported() {
    let fits = "ع".repeat(MAX_TEXT_BYTES / 2);
    assert!(matches!(sanitise(&fits), Cow::Borrowed(_)));
    let long = format!("a{fits}");
    let short = sanitise(&long);
    assert!(
        short.len() <= MAX_TEXT_BYTES && short.len() > MAX_TEXT_BYTES - 4,
        "{}",
        short.len()
    );
    assert!(short.ends_with("عع…") && long.starts_with(short.trim_end_matches(CUT_MARK)));
}

fn cleaned(json: &str) -> (String, Vec<String>) {
    let (clean, changed) = clean_json(json.as_bytes().to_vec());
    (String::from_utf8(clean).unwrap(), changed)
}

#[test]
fn every_text_of_a_document_is_cleaned() {
    let body = r#"{"a":{"note":"<script>x</script>Anna \"}\u0000","list":["fine <3",{"b/c":"\u202ex"},16.240,"javascript:"]},
        "<img":1, "e" : "\ud83c", "time":"12:00","quote\"":"\\","price":1.50}"#;
    let (clean, changed) = cleaned(body);
    let expected = r#"{"a":{"note":"Anna \"}","list":["fine <3",{"b/c":"x"},16.240,""]},
        "img":1, "e" : "\ufffd", "time":"12:00","quote\"":"\\","price":1.50}"#;
    assert_eq!(clean, expected.replace("\\ufffd", "\u{fffd}"));
    assert_eq!(changed, ["/a/note", "/a/list/1/b~1c", "/a/list/3", "/img", "/e"]);
    let long = "x".repeat(MAX_TEXT_BYTES + 1);
    assert_eq!(cleaned(&format!(r#"["{long}"]"#)).1, ["/0"]);
    for body in [
        "",
        "{}",
        r#"{"a":"Tom & Jerry's <3","b":[1,"\n","\u0061"]}"#,
        "no \" json",
        "\"\\",
    ] {
        assert_eq!(cleaned(body), (body.to_owned(), vec![]));
    }
}

/// Text in which what acts is likely, whole and in pieces.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "<",
            "</",
            ">",
            "<script",
            "script",
            "</script>",
            "<scr",
            "ipt",
            ">",
            "javascript:",
            "java",
            "script:",
            "on",
            "onclick",
            "click",
            "=",
            " ",
            "\n",
            "\t",
            "\r",
            "\0",
            "<img",
            "im",
            "g",
            "<for",
            "m",
            "eta",
            "<!--",
            "<![",
            "data:text/html",
            "data:",
            "text/htm",
            "l",
            "\u{202e}",
            "\u{e0041}",
            "\u{1f3f4}",
            "🍕",
            "ع",
            "-",
            "/",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,3}",
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn a_second_run_changes_nothing(text in hostile()) {
        let once = sanitise(&text).into_owned();
        prop_assert!(matches!(sanitise(&once), Cow::Borrowed(_)), "{:?} became {:?}", once, sanitise(&once));
    }

    #[test]
    fn no_active_markup_is_left(text in hostile()) {
        let clean = sanitise(&text).into_owned();
        prop_assert!(clean.len() <= text.len());
        let folded: String = clean.to_ascii_lowercase().chars().filter(|c| !matches!(c, '\t' | '\n')).collect();
        for acting in ["<script", "</script", "<img", "<form", "<meta", "<!--", "javascript:", "data:text/html"] {
            prop_assert!(!folded.contains(acting) || clean.contains(['\t', '\n']) && acting.starts_with('<'),
                "{:?} in {:?}", acting, clean);
        }
        prop_assert!(!clean.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n')));
    }

    #[test]
    fn words_without_signs_stay(text in "[\\p{L}\\p{N}\\p{Zs} .,!'&()/-]{0,80}") {
        prop_assert_eq!(sanitise(&text), text.as_str());
    }

    #[test]
    fn documents_stay_documents(texts in prop::collection::vec(hostile(), 0..4)) {
        let body = serde_json::to_string(&serde_json::json!({ "texts": texts, "n": 1 })).unwrap();
        let (clean, changed) = cleaned(&body);
        let read: serde_json::Value = serde_json::from_str(&clean).unwrap();
        let expected: Vec<_> = texts.iter().map(|text| sanitise(text)).collect();
        prop_assert_eq!(&read["texts"], &serde_json::json!(expected));
        let count = texts.iter().filter(|text| matches!(sanitise(text), Cow::Owned(_))).count();
        prop_assert_eq!(changed.len(), count);
        prop_assert_eq!(cleaned(&clean), (clean, vec![]));
    }

    #[test]
    fn invalid_documents_never_panic(text in "[\"\\\\{}\\[\\],:a<é]{0,30}") {
        let _ = cleaned(&text);
    }
}

/// Long texts of what makes it look back take no more time for each byte than short ones.
#[test]
fn takes_time_in_proportion() {
    for piece in [
        "<<<<<<<<",
        "<script",
        "</script",
        "= ",
        "\n:",
        "onclick=",
        "javas",
        "<for<meta",
        "on ",
    ] {
        let text = piece.repeat(250_000 / piece.len());
        let began = Instant::now();
        sanitise(&text);
        // A debug build on a busy machine needs a fiftieth of this; a quadratic algorithm would need hours.
        assert!(began.elapsed().as_secs() < 30, "{piece}: {:?}", began.elapsed());
    }
}
