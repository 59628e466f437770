//! Text from anywhere, made safe and visible in HTML.

use crate::visible::pictured;

/// `text` for element content and quoted attributes. Control characters show as their pictures (NUL as ␀), characters that
/// would turn the direction of what follows as their code points.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push_str(&pictured(c)),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn markup_is_text() {
        assert_eq!(escape(r#"<script>&"'"#), "&lt;script&gt;&amp;&quot;&#39;");
    }

    #[test]
    fn what_is_invisible_is_shown() {
        assert_eq!(escape("a\0\t\n\x7f"), "a␀␉␊␡");
        assert_eq!(escape("\u{202e}\u{85}\u{feff}\u{200b}"), "\\u{202e}\\u{85}\\u{feff}\\u{200b}");
        assert_eq!(escape("Käse 狗 🐕"), "Käse 狗 🐕");
    }
}
