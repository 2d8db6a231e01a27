#![no_main]
#![allow(dead_code)]

#[path = "../../tests/fuzzing/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::intake(data));
