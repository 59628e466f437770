//! The caption clean-up of BLIP and BLIP-2 (LAVIS `BlipCaptionProcessor.pre_caption`).

/// Lower case, punctuation to spaces, runs of white space to one space, at most `max_words` words.
///
/// A lone tab or line break inside stays, as in the original.
pub fn pre_caption(text: &str, max_words: usize) -> String {
    let spaced: String = text.to_lowercase().chars().map(|c| if ".!\"()*#:;~".contains(c) { ' ' } else { c }).collect();
    let merged = merge_white_space(&spaced);
    let trimmed = merged.trim_end_matches('\n').trim_matches(' ');
    trimmed.split(' ').take(max_words).collect::<Vec<_>>().join(" ")
}

/// Runs of two or more white-space characters become one space.
fn merge_white_space(text: &str) -> String {
    let mut merged = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let mut run = 1;
        while is_space(character) && characters.next_if(|&next| is_space(next)).is_some() {
            run += 1;
        }
        merged.push(if run > 1 { ' ' } else { character });
    }
    merged
}

/// Python's `\s`: Unicode white space and the four separators U+001C to U+001F.
fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

#[cfg(test)]
mod tests {
    use super::pre_caption;

    #[test]
    fn captions_are_cleaned_as_lavis_does() {
        for (raw, clean) in [
            ("A Dog, on the beach!", "a dog, on the beach"),
            ("  two   spaces  and\ttabs ", "two spaces and\ttabs"),
            ("line one\nline two\n", "line one\nline two"),
            ("trailing space and newline \n", "trailing space and newline"),
            ("mixed\r\nwindows", "mixed windows"),
            ("a\u{1c}\u{a0}b", "a b"),
            ("...", ""),
        ] {
            assert_eq!(pre_caption(raw, 50), clean, "{raw:?}");
        }
    }

    #[test]
    fn words_beyond_the_limit_are_cut() {
        assert_eq!(pre_caption("one two three four", 3), "one two three");
    }
}
