//! That a target can fail: by a panic, by memory, on a seed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use quern_fuzz::Target;

fn target(name: &'static str) -> Target {
    Target::new(name).seed("seed", b"length=12;").cases(500).most_bytes(1 << 20)
}

fn failure(target: Target, parse: impl Fn(&[u8])) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| target.run(parse))).expect_err("it fails");
    panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into())).unwrap()
}

#[test]
fn a_panic_is_found_and_made_small() {
    let text = failure(target("itself"), |bytes| assert!(bytes.starts_with(b"length"), "no length"));
    assert!(text.contains("no length") && text.contains("QUERN_FUZZ_SEED=0"), "{text}");
    let kept = std::fs::read(std::env::temp_dir().join("quern-fuzz-itself")).unwrap();
    assert!(!kept.starts_with(b"length"), "what is kept fails: {kept:?}");
}

#[test]
fn a_length_that_is_believed_is_found() {
    let text = failure(target("itself_in_memory"), |bytes| {
        let digits = bytes.iter().skip_while(|byte| !byte.is_ascii_digit()).take_while(|byte| byte.is_ascii_digit());
        let length = digits.fold(0usize, |value, digit| (value * 10 + usize::from(digit - b'0')) % 1000);
        std::hint::black_box(Vec::<u8>::with_capacity(length * 20_000));
    });
    assert!(text.contains("at once"), "{text}");
}

#[test]
fn a_seed_that_fails_is_named_first() {
    let text = failure(target("itself_as_it_is"), |bytes| assert_ne!(bytes, b"length=12;", "the seed itself"));
    assert!(text.contains("the seed itself") && !text.contains("QUERN_FUZZ_SEED"), "{text}");
}

#[test]
fn what_never_fails_passes() {
    target("itself").run(|bytes| assert!(bytes.len() <= 1 << 20));
}
