//! JSON as YAML that people read. Only what needs no quotes goes without; everything else is a double-quoted scalar in
//! printable characters, so every YAML reader gives back the same text.

use std::fmt::Write;

use serde_json::Value;

use crate::visible::is_invisible;

/// A document of a mapping or list, or a scalar.
pub(super) fn document(value: &Value) -> String {
    let mut yaml = String::new();
    match value {
        Value::Object(_) | Value::Array(_) if !is_empty(value) => entries(value, 0, &mut yaml),
        scalar => yaml = inline(scalar) + "\n",
    }
    yaml
}

/// A text as a scalar.
pub(super) fn scalar(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => true,
    }
}

fn entries(value: &Value, indent: usize, yaml: &mut String) {
    let lead = " ".repeat(indent);
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let _ = write!(yaml, "{lead}{}:", scalar(name));
                below(field, indent, yaml);
            }
        }
        Value::Array(items) => {
            for item in items {
                let _ = write!(yaml, "{lead}-");
                below(item, indent, yaml);
            }
        }
        _ => {}
    }
}

/// What follows a key or a dash: a scalar on its line, or entries on lines of their own.
fn below(value: &Value, indent: usize, yaml: &mut String) {
    if is_empty(value) {
        let _ = writeln!(yaml, " {}", inline(value));
    } else {
        yaml.push('\n');
        entries(value, indent + 2, yaml);
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => scalar(text),
        Value::Array(_) => "[]".into(),
        Value::Object(_) => "{}".into(),
    }
}

/// Letters, digits, and what never begins anything within a word; nothing that reads as another type.
fn is_plain(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let words = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(fits)
        && !words.contains(&text.to_ascii_lowercase().as_str())
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            c if is_invisible(c) || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                let _ = match c as u32 {
                    point @ ..0x100 => write!(quoted, "\\x{point:02X}"),
                    point @ ..0x1_0000 => write!(quoted, "\\u{point:04X}"),
                    point => write!(quoted, "\\U{point:08X}"),
                };
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_could_mean_something_else_is_quoted() {
        for text in ["", "yes", "null", "1", "1e3", "- a", "a: b", "#", "a b", "--- ", "~", "é", "2001-01-01"] {
            assert!(scalar(text).starts_with('"'), "{text}");
        }
        for text in ["web", "/data/web-2.v1", "hello_you"] {
            assert_eq!(scalar(text), text);
        }
        assert_eq!(scalar("a\n---\n\"\\\0\u{1b}\u{202e}\u{e0001}"), r#""a\n---\n\"\\\x00\x1B\u202E\U000E0001""#);
    }

    #[test]
    fn a_reader_gives_back_the_same() {
        let value = json!({
            "name": "a: b\n--- # \"x\" 🐕", "seed": 7, "share": 0.5, "none": null, "prompt": "",
            "datasets": [{ "name": "web", "columns": { "image": "jpg" } }, "x", [], {}, [1, [2]]],
        });
        let yaml = document(&value);
        let read: Value = serde_saphyr::from_str(&yaml).unwrap();
        assert_eq!(read, value, "{yaml}");
    }
}
