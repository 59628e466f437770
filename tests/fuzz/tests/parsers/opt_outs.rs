//! `X-Robots-Tag`, a value per line.

use quern_corpus::fetch::foreign::opted_out;
use quern_fuzz::Target;

#[test]
fn opt_outs() {
    Target::new("opt_outs").cases(20_000).run(|bytes| {
        let lines = || bytes.split(|&byte| byte == b'\n');
        let found = opted_out(lines(), "quern");
        let text = String::from_utf8_lossy(bytes).to_lowercase();
        assert!(found.is_none_or(|directive| text.contains(directive)), "nobody said {found:?}");
        // A value that says nothing of its own takes nothing back.
        assert_eq!(opted_out(lines().chain([&b"all"[..]]), "quern"), found);
        assert!(opted_out(lines().chain([&b"noai"[..]]), "quern").is_some());
    });
}
