//! Foreign text where people look at it, on a terminal or a page: what is invisible, moves the cursor or turns the
//! direction of what follows is shown instead of obeyed.

use std::borrow::Cow;

/// Whether a reader would not see this character, but its effect.
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// The text in which every invisible character is written as its code point: `\u{1b}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_invisible) {
        return text.into();
    }
    let shown = |c: char| if is_invisible(c) { c.escape_unicode().collect() } else { String::from(c) };
    text.chars().map(shown).collect::<String>().into()
}

/// The same with pictures for what ASCII has: NUL as ␀, a line feed as ␊.
fn pictured(c: char) -> Cow<'static, str> {
    match c {
        '\0'..='\x1f' => String::from(char::from_u32(0x2400 + c as u32).expect("a control picture")).into(),
        '\x7f' => "\u{2421}".into(),
        c if is_invisible(c) => c.escape_unicode().collect::<String>().into(),
        c => String::from(c).into(),
    }
}

/// `text` for HTML, and for Markdown, which takes HTML: it is no markup, and what is invisible is pictured. `special`: what
/// else a character is written as.
pub(crate) fn in_markup(text: &str, special: impl Fn(char) -> Option<Cow<'static, str>>) -> String {
    let written = |c: char| match c {
        '&' => "&amp;".into(),
        '<' => "&lt;".into(),
        '>' => "&gt;".into(),
        c => special(c).unwrap_or_else(|| pictured(c)),
    };
    text.chars().map(written).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        assert_eq!(visible("a\u{1b}[2J\u{9b}31m\u{202e}\0\u{200b}"), "a\\u{1b}[2J\\u{9b}31m\\u{202e}\\u{0}\\u{200b}");
        assert!(matches!(visible("Käse 狗 🐕"), Cow::Borrowed("Käse 狗 🐕")));
    }

    #[test]
    fn a_page_shows_pictures() {
        let pictured: String = "a\0\t\n\x7f\u{85}\u{feff}".chars().map(pictured).collect();
        assert_eq!(pictured, "a␀␉␊␡\\u{85}\\u{feff}");
    }
}
