//! Text from anywhere, made safe and visible in HTML.

use crate::visible::in_markup;

/// `text` for element content and quoted attributes. Control characters show as their pictures (NUL as ␀), characters that
/// would turn the direction of what follows as their code points.
pub(super) fn escape(text: &str) -> String {
    in_markup(text, |c| match c {
        '"' => Some("&quot;".into()),
        '\'' => Some("&#39;".into()),
        _ => None,
    })
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
