//! Foreign text in Markdown.

use crate::visible::in_markup;

/// `text` within a line or a table's cell: it is neither markup nor HTML, links nothing, and stays on its line.
pub(super) fn markdown(text: &str) -> String {
    // What could begin markup, a mention, or a URL.
    in_markup(text, |c| "\\`*_{}[]()#!|~$@:".contains(c).then(|| format!("\\{c}").into()))
}

/// A fenced block whose fence no line of `code` can close.
pub(super) fn code_block(language: &str, code: &str) -> String {
    let longest = code.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let end = if code.ends_with('\n') { "" } else { "\n" };
    format!("{fence}{language}\n{code}{end}{fence}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_markup() {
        assert_eq!(
            markdown("a|b\n# <script> [x](y) `c` & *d*"),
            "a\\|b␊\\# &lt;script&gt; \\[x\\]\\(y\\) \\`c\\` &amp; \\*d\\*"
        );
        assert_eq!(markdown("web-0/0.parquet"), "web-0/0.parquet");
        assert_eq!(markdown("https://h\u{202e}"), "https\\://h\\u{202e}");
    }

    #[test]
    fn a_fence_is_longer_than_any_in_it() {
        assert_eq!(code_block("yaml", "a: 1\n"), "```yaml\na: 1\n```\n");
        assert_eq!(code_block("yaml", "a: ````\n"), "`````yaml\na: ````\n`````\n");
    }
}
