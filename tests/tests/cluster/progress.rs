//! What a run says of its progress, and what it leaves beside its output about its times.

use std::fs;

use crate::harness::{FILES, ROWS_PER_FILE, Run, corpus, quern};

/// The values of `key` on the lines that hold `filter`, in order.
fn values(lines: &str, filter: &str, key: &str) -> Vec<String> {
    let of_line = |line: &str| {
        let fields = line.split(' ').find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
        fields.unwrap_or_else(|| panic!("{key} is missing in {line}")).to_owned()
    };
    lines.lines().filter(|line| line.starts_with("progress ") && line.contains(filter)).map(of_line).collect()
}

/// A run over the corpus under two names, with these arguments: what it said on stderr.
fn said(run: &Run, arguments: &[&str]) -> String {
    let plain = fs::read_to_string(run.recipe()).expect("the recipe");
    let twice = plain.replace(
        "datasets:\n",
        &format!("datasets:\n  - {{ name: again, path: {}, capfilt: false }}\n", corpus().display()),
    );
    fs::write(run.recipe(), twice).expect("written");
    let recipe = run.recipe();
    let output = quern(&["run", recipe.to_str().expect("UTF-8")]).args(arguments).output().expect("quern runs");
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stderr).expect("UTF-8")
}

#[test]
fn lines_say_how_far_each_data_set_is_and_all_of_them() {
    let lines = said(&Run::pass_through(corpus()), &["--progress", "lines", "--interval", "1"]);
    let rows = (ROWS_PER_FILE * FILES) as u64;
    for dataset in ["dataset=again", "dataset=web"] {
        assert_eq!(values(&lines, dataset, "rows").last(), Some(&rows.to_string()), "{lines}");
        assert_eq!(values(&lines, dataset, "eta_s").last().map(String::as_str), Some("0"), "{lines}");
    }
    assert_eq!(values(&lines, "scope=total", "rows").last(), Some(&(2 * rows).to_string()), "{lines}");
    // Per data set 8 shards of 10 rows, and the file that is none.
    assert_eq!(values(&lines, "scope=total", "shards").last().map(String::as_str), Some("18"), "{lines}");
    let quarantined = |filter| values(&lines, filter, "quarantined").last().expect("a line").parse::<u64>().unwrap();
    assert!(quarantined("dataset=web") > 0);
    assert_eq!(quarantined("scope=total"), quarantined("dataset=web") + quarantined("dataset=again"));
    let phases = values(&lines, "scope=total", "phase");
    assert!(phases.contains(&"capfilt".into()) && phases.last().is_some_and(|last| last == "done"), "{phases:?}");
    for line in lines.lines().filter(|line| line.starts_with("progress ")) {
        assert!(line.contains(" quarantine_rate=") && line.contains(" rows_per_s="), "{line}");
    }
}

#[test]
fn without_a_terminal_auto_is_lines_and_none_is_nothing() {
    let auto = said(&Run::pass_through(corpus()), &[]);
    assert!(!values(&auto, "dataset=web", "rows").is_empty(), "{auto}");
    assert!(!auto.contains('\u{1b}'), "{auto}");
    let none = said(&Run::pass_through(corpus()), &["--progress", "none"]);
    assert!(!none.contains("progress "), "{none}");
}

#[test]
fn the_slowest_shards_are_beside_the_output_and_in_its_report() {
    let run = Run::pass_through(corpus());
    run.run_locally(2);
    run.verify();
    let beside = run.output().with_file_name("out.coordinators/slowest.json");
    let kept: serde_json::Value = serde_json::from_slice(&fs::read(&beside).expect("it is kept")).expect("JSON");
    let shards = kept["shards"].as_array().expect("shards");
    assert_eq!(shards.len(), FILES * ROWS_PER_FILE / 10, "all that were done");
    let took: Vec<u64> = shards.iter().map(|shard| shard["took_ms"].as_u64().expect("a time")).collect();
    assert!(took.is_sorted_by(|a, b| a >= b), "the slowest first: {took:?}");
    assert!(shards.iter().all(|shard| shard["rows"] == 10 && shard["attempts"] == 1), "{shards:?}");

    let report = || {
        let output = run.output();
        let status = quern(&["capfilt", "report", output.to_str().expect("UTF-8")]).status().expect("quern runs");
        assert!(status.success());
        fs::read_to_string(output.join("report.html")).expect("the report")
    };
    let first = shards[0]["shard"].as_str().expect("a name");
    assert!(report().contains("<table class=\"slowest\">") && report().contains(first));
    // Another run's times are not this one's.
    fs::write(&beside, kept.to_string().replacen("\"recipe_hash\":\"", "\"recipe_hash\":\"other", 1)).expect("written");
    assert!(report().contains("not known here"));
    fs::remove_file(&beside).expect("removed");
    assert!(report().contains("not known here"));
    run.verify();
}
