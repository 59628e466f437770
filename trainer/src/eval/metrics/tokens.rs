//! Captions to tokens as pycocoevalcap's `ptbtokenizer.py` makes them: Stanford's PTBTokenizer (CoreNLP 3.4.1,
//! `-preserveLines -lowerCase`), then punctuation is left out.
//!
//! The rules of captions, not of all English: e-mail addresses, smileys, company names with `&` and most of the 150
//! abbreviations that Stanford knows are left to the general rules. `tests` holds what the original printed.

/// What pycocoevalcap leaves out. Its bracket tokens are in capitals and never met: brackets stay.
const PUNCTUATION: [&str; 14] = ["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";", "\""];
/// Ends of words that are tokens of their own.
const ENDINGS: [&str; 7] = ["n't", "'s", "'re", "'ve", "'ll", "'d", "'m"];
/// Words that are two tokens, and the length of the first.
const COMPOUNDS: [(&str, usize); 8] =
    [("cannot", 3), ("gonna", 3), ("gotta", 3), ("wanna", 3), ("gimme", 3), ("lemme", 3), ("'tis", 2), ("'twas", 2)];
/// Words that begin with an apostrophe.
const CLIPPED: [&str; 6] = ["'em", "'cause", "'til", "'n'", "'tis", "'twas"];
/// Words that keep their full stop.
const ABBREVIATIONS: [&str; 32] = [
    "st", "mt", "ave", "blvd", "dr", "mr", "mrs", "ms", "prof", "gen", "sr", "jr", "vs", "etc", "inc", "ltd", "co",
    "corp", "jan", "feb", "apr", "aug", "sept", "oct", "nov", "dec", "mon", "tues", "ft", "vol", "est", "dept",
];

/// The tokens of a caption that BLEU and CIDEr are computed on.
///
/// Lower case; contractions and possessives are split (`isn't` is `is n't`, `man's` is `man 's`), hyphenated words and
/// numbers stay whole, brackets become `-lrb-` and the like, punctuation is left out.
pub fn tokenise(caption: &str) -> Vec<String> {
    let plain = plain(caption);
    let mut tokens = Vec::new();
    for chunk in plain.split_whitespace() {
        let chunk: Vec<char> = chunk.chars().collect();
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let length = next(rest, rest.len() == chunk.len());
            push(&rest[..length].iter().collect::<String>(), &mut tokens);
            rest = &rest[length..];
        }
    }
    tokens.retain(|token| !PUNCTUATION.contains(&token.as_str()));
    tokens
}

/// Lower case, with typographic characters as Stanford writes them.
fn plain(caption: &str) -> String {
    let mut plain = String::with_capacity(caption.len());
    for character in caption.chars() {
        match character {
            '‘' | '’' => plain.push('\''),
            '“' | '”' => plain.push('"'),
            '…' => plain.push_str("..."),
            '–' | '—' => plain.push_str("--"),
            '€' => plain.push('$'),
            '£' => plain.push('#'),
            '¢' => plain.push_str(" cents"),
            '½' => plain.push_str("1/2"),
            '¼' => plain.push_str("1/4"),
            '¾' => plain.push_str("3/4"),
            other => plain.extend(other.to_lowercase()),
        }
    }
    plain
}

/// The length of the first token of `text`, before contractions are split; `first`: white space is before it.
fn next(text: &[char], first: bool) -> usize {
    let at = |index: usize| text.get(index).copied().unwrap_or(' ');
    let run = |of: fn(char) -> bool| text.iter().take_while(|&&character| of(character)).count();
    match text[0] {
        '\'' => clipped(text).unwrap_or(1),
        '.' if run(|c| c == '.') >= 3 => run(|c| c == '.'),
        '-' if run(|c| c == '-') >= 2 => run(|c| c == '-'),
        '?' | '!' => run(|c| matches!(c, '?' | '!')),
        '#' | '@' if at(1).is_alphabetic() => 1 + text[1..].iter().take_while(|&&c| is_word(c)).count(),
        '.' | ',' if at(1).is_ascii_digit() => 1 + word(&text[1..]),
        '-' | '+' if first && at(1).is_ascii_digit() => 1 + word(&text[1..]),
        '<' => tag(text).unwrap_or(1),
        start if is_word(start) => word(text),
        _ => 1,
    }
}

/// `'em` and its like, and `'90s`.
fn clipped(text: &[char]) -> Option<usize> {
    let letters = 1 + text[1..].iter().take_while(|&&character| is_word(character)).count();
    let whole: String = text[..letters].iter().collect();
    if whole.len() == 4 && whole.ends_with("0s") {
        return Some(letters);
    }
    let and = text.get(letters) == Some(&'\'') && whole == "'n";
    (and || CLIPPED.contains(&whole.as_str()) || ENDINGS.contains(&whole.as_str())).then(|| letters + usize::from(and))
}

/// `<unk>`, `</b>`.
fn tag(text: &[char]) -> Option<usize> {
    let length = text.iter().position(|&character| character == '>')? + 1;
    let name = &text[1 + usize::from(text.get(1) == Some(&'/'))..length - 1];
    (!name.is_empty() && name.iter().all(|character| character.is_alphanumeric())).then_some(length)
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The length of the word or number at the start of `text`, with its apostrophes, and the full stop of an abbreviation.
fn word(text: &[char]) -> usize {
    let at = |index: usize| text.get(index).copied().unwrap_or(' ');
    let mut length = 0;
    let mut number = true; // digits so far, with what joins them
    let mut joined = false; // by what joins digits only
    loop {
        let (current, next) = (at(length), at(length + 1));
        let before = at(length.wrapping_sub(1));
        let goes_on = match current {
            character if number && joined && character.is_alphabetic() => false,
            character if is_word(character) => true,
            '-' => is_word(next),
            '/' => is_word(next),
            ',' | ':' => number && next.is_ascii_digit(),
            '.' if number => next.is_ascii_digit(),
            '.' | '!' | '?' => before.is_alphabetic() && next.is_alphabetic(),
            '\'' => apostrophe(&text[..length], &text[length + 1..]),
            _ => false,
        };
        if !goes_on {
            break;
        }
        number &= current.is_ascii_digit() || matches!(current, ',' | ':' | '.' | '/');
        joined |= matches!(current, ',' | ':' | '.');
        length += 1;
    }
    let whole: String = text[..length].iter().collect();
    let letters = |part: &str| part.chars().count() == 1 && part.chars().all(char::is_alphabetic);
    let abbreviated = whole.split('.').all(letters) || ABBREVIATIONS.contains(&whole.as_str()) || whole == "ph.d";
    length + usize::from(at(length) == '.' && abbreviated)
}

/// Whether an apostrophe between these two belongs to a word: a contraction's, `o'clock`, `ma'am`.
fn apostrophe(before: &[char], after: &[char]) -> bool {
    let letters: String = after.iter().take_while(|character| character.is_alphabetic()).collect();
    let suffix = format!("'{letters}");
    let contraction = ENDINGS.contains(&suffix.as_str()) || (letters == "t" && before.last() == Some(&'n'));
    let chained = before.len() > 1 && after.get(letters.len()) == Some(&'\'') && letters == "n";
    let single = before.len() == 1 && before[0] != 'y' && letters.chars().count() >= 2;
    !chained && (contraction || single || (before == ['m', 'a'] && letters == "am"))
}

/// Adds a token, split at its contractions and as compounds are.
fn push(token: &str, tokens: &mut Vec<String>) {
    if let Some(&(_, length)) = COMPOUNDS.iter().find(|(compound, _)| *compound == token) {
        return tokens.extend([token[..length].into(), token[length..].into()]);
    }
    if let Some(ending) = ENDINGS.iter().find(|ending| token.len() > ending.len() && token.ends_with(*ending)) {
        push(&token[..token.len() - ending.len()], tokens);
        return tokens.push((*ending).into());
    }
    tokens.push(match token {
        "(" => "-lrb-".into(),
        ")" => "-rrb-".into(),
        "[" => "-lsb-".into(),
        "]" => "-rsb-".into(),
        "{" => "-lcb-".into(),
        "}" => "-rcb-".into(),
        dots if dots.starts_with("...") => "...".into(),
        dashes if dashes.starts_with("--") => "--".into(),
        other => other.into(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Captions, and what `ptbtokenizer.py` of pycocoevalcap 1.2 made of them.
    const ORIGINAL: &str = include_str!("ptb_tokens.txt");

    #[test]
    fn captions_become_the_originals_tokens() {
        for pair in ORIGINAL.trim_end().split("\n\n") {
            let (caption, tokens) = pair.split_once('\n').expect("a caption and its tokens");
            assert_eq!(tokenise(caption).join(" "), tokens, "{caption}");
        }
    }

    #[test]
    fn nothing_has_no_tokens() {
        assert!(tokenise(" . , \n").is_empty());
    }
}
