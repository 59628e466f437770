//! Bearer tokens and their roles, from a file with one `ROLE TOKEN [NAME]` per line. `TOKEN` is the token itself or
//! `sha256:` and its digest in hexadecimal digits; blank lines and those that begin with `#` say nothing.

use std::fmt;
use std::path::{Path, PathBuf};

use quern_proto::FileError;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// Characters that a token must have at least: shorter ones could be guessed.
const SHORTEST: usize = 16;

/// What someone may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Look: status, logs, page, metrics.
    Viewer,
    /// Look, hand recipes in, steer.
    Operator,
    /// Be a worker.
    Worker,
}

impl Role {
    const ALL: [(Role, &str); 3] = [(Role::Viewer, "viewer"), (Role::Operator, "operator"), (Role::Worker, "worker")];

    /// Its name in the file.
    pub fn name(self) -> &'static str {
        Role::ALL.iter().find(|(role, _)| *role == self).expect("all roles are listed").1
    }

    fn bits(self) -> u8 {
        match self {
            Role::Viewer => 0b001,
            Role::Operator => 0b011,
            Role::Worker => 0b100,
        }
    }
}

/// The roles of one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Roles(u8);

impl Roles {
    /// Of whom nothing is asked.
    pub const EVERY: Roles = Roles(0b111);

    /// Whether what asks for `role` is allowed.
    pub fn include(self, role: Role) -> bool {
        self.0 & role.bits() == role.bits()
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = Role::ALL.iter().filter(|(role, _)| self.include(*role)).map(|(_, name)| *name);
        f.write_str(&held.collect::<Vec<_>>().join(" and "))
    }
}

/// What is kept of a token.
pub(crate) type TokenDigest = [u8; 32];

/// The digest of a token.
pub(crate) fn digest(token: &str) -> TokenDigest {
    Sha256::digest(token.as_bytes()).into()
}

/// All tokens; only their digests are kept.
pub(crate) struct Tokens(Vec<(TokenDigest, u8)>);

impl Tokens {
    /// The roles of a token; `None`: it is none of ours. Takes the same time whichever it is.
    pub fn roles(&self, token: &TokenDigest) -> Option<Roles> {
        let mut bits = 0_u8;
        for (known, roles) in &self.0 {
            let equal: Choice = known.as_slice().ct_eq(token.as_slice());
            bits |= u8::conditional_select(&0, roles, equal);
        }
        (bits != 0).then_some(Roles(bits))
    }
}

/// Reads the file.
///
/// # Errors
/// When it can't be read or says something else. The text never holds a token.
pub(crate) fn read(files: &[PathBuf]) -> Result<Tokens, FileError> {
    let file = &files[0];
    let text = String::from_utf8(FileError::read(file)?).map_err(|_| FileError::new(file, "it is not text"))?;
    parse(file, &text)
}

fn parse(file: &Path, text: &str) -> Result<Tokens, FileError> {
    let mut tokens = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let wrong = |what: &str| FileError::new(file, format!("line {}: {what}", index + 1));
        let words: Vec<&str> = line.split_whitespace().collect();
        let (role, token) = match words[..] {
            [role, token] | [role, token, _] => (role, token),
            _ => return Err(wrong("`ROLE TOKEN [NAME]` is expected")),
        };
        let (role, _) = *Role::ALL
            .iter()
            .find(|(_, name)| *name == role)
            .ok_or_else(|| wrong("the role must be viewer, operator or worker"))?;
        let digest = match token.strip_prefix("sha256:") {
            Some(hex) => from_hex(hex).ok_or_else(|| wrong("after sha256: 64 hexadecimal digits are expected"))?,
            None if token.len() < SHORTEST => return Err(wrong("a token must have at least 16 characters")),
            None => digest(token),
        };
        tokens.push((digest, role.bits()));
    }
    if tokens.is_empty() {
        return Err(FileError::new(file, "it names no token: write one `ROLE TOKEN [NAME]` per line"));
    }
    Ok(Tokens(tokens))
}

fn from_hex(text: &str) -> Option<TokenDigest> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Tokens, FileError> {
        parse(Path::new("tokens"), text)
    }

    #[test]
    fn roles_are_as_the_file_says() {
        let hex: String = digest("operators-own-token").iter().map(|byte| format!("{byte:02x}")).collect();
        let text = format!(
            "# who\n\nviewer viewers-own-token ann\noperator sha256:{hex}\nworker both-sorts-of-token\nviewer \
             both-sorts-of-token\n"
        );
        let tokens = parsed(&text).unwrap();
        let roles = |token: &str| tokens.roles(&digest(token));
        let may = |token: &str| Role::ALL.map(|(role, _)| roles(token).unwrap().include(role));
        assert_eq!(may("viewers-own-token"), [true, false, false]);
        assert_eq!(may("operators-own-token"), [true, true, false]);
        assert_eq!(may("both-sorts-of-token"), [true, false, true]);
        assert_eq!(roles("viewers-own-toker"), None);
        assert_eq!(roles(""), None);
        assert_eq!(roles("both-sorts-of-token").unwrap().to_string(), "viewer and worker");
    }

    #[test]
    fn what_is_wrong_is_said_without_the_token() {
        for (text, said) in [
            ("", "no token"),
            ("\nviewer", "line 2: `ROLE TOKEN"),
            ("boss hushhushhushhush", "line 1: the role"),
            ("viewer hushhush", "16 characters"),
            ("viewer sha256:hush", "64 hexadecimal"),
            ("viewer hushhushhushhush a b", "`ROLE TOKEN"),
        ] {
            let text = if text == "\nviewer" { "#\nviewer" } else { text };
            let error = parsed(text).map(drop).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("hush"), "{error}");
        }
    }
}
