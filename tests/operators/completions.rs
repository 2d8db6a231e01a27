//! `completions`: the shell offers what the program takes.

use std::process::Stdio;

use tokio::process::Command;

use crate::harness::hub::{Settings, run};

/// Asks bash, by the printed script, what may follow these words.
async fn bash_offers(script: &str, words: &[&str]) -> Vec<String> {
    let asked = format!(
        "{script}\nasked=$(complete -p webhook-hub); asked=${{asked#*-F }}; COMP_WORDS=(webhook-hub {}); COMP_CWORD={}; \
         ${{asked%% *}} webhook-hub \"${{COMP_WORDS[COMP_CWORD]}}\" \
         \"${{COMP_WORDS[COMP_CWORD-1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.join(" "),
        words.len()
    );
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", &asked]).stdin(Stdio::null());
    let output = bash.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let offered = String::from_utf8(output.stdout).unwrap();
    offered.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn shells_offer_commands_and_options() {
    let bash = run(&Settings::empty(), &["completions", "bash"]).await.expect_success();
    assert_eq!(bash_offers(&bash.stdout, &["orde"]).await, ["orders"]);
    assert_eq!(bash_offers(&bash.stdout, &["orders", "li"]).await, ["list"]);
    assert_eq!(
        bash_offers(&bash.stdout, &["orders", "list", "--undel"]).await,
        ["--undelivered"]
    );
    for shell in ["zsh", "fish"] {
        let script = run(&Settings::empty(), &["completions", shell]).await.expect_success();
        for word in ["dead-letters", "completions", "undelivered"] {
            assert!(script.stdout.contains(word), "{shell}: {word}");
        }
    }
    let ran = run(&Settings::empty(), &["completions", "cmd"]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.said());
}
