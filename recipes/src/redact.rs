//! Secrets in URLs: found, and left out of whatever is shown.

use std::io::{self, Write};

/// What stands for a secret.
const HIDDEN: &str = "***";

/// Parameters of a URL's query whose value lets whoever has it in, in lower case.
const SECRET_PARAMETERS: [&str; 17] = [
    "sig",
    "signature",
    "x-amz-signature",
    "x-amz-credential",
    "x-amz-security-token",
    "x-goog-signature",
    "x-goog-credential",
    "awsaccesskeyid",
    "access_token",
    "token",
    "key",
    "api_key",
    "apikey",
    "secret",
    "password",
    "access_key",
    "secret_access_key",
];

/// The text without the secrets of the URLs in it: users with passwords, signatures, keys. Whoever shows a text that may
/// hold a URL passes it through here.
pub fn redacted(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find("://") {
        let (before, after) = rest.split_at(position + 3);
        let scheme = before[..position].rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        let end =
            after.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>')).unwrap_or(after.len());
        let (url, following) = after.split_at(end);
        shown.push_str(before);
        shown.push_str(&without_secrets(scheme, url));
        rest = following;
    }
    shown + rest
}

/// Whether the text holds a URL with a secret.
pub(crate) fn holds_secret(text: &str) -> bool {
    redacted(text) != text
}

/// A URL from its authority on.
fn without_secrets(scheme: &str, url: &str) -> String {
    let (authority, path) = url.split_at(url.find(['/', '?', '#']).unwrap_or(url.len()));
    // In abfs://container@account the user is none.
    let is_web = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) if is_web || user.contains(':') => format!("{HIDDEN}@{host}"),
        _ => authority.to_owned(),
    };
    let Some((path, query)) = path.split_once('?') else { return authority + path };
    let parameters = query.split('&').map(|parameter| match parameter.split_once('=') {
        Some((name, value)) if is_secret(name) => {
            let following = value.find('#').map_or("", |position| &value[position..]);
            format!("{name}={HIDDEN}{following}")
        }
        _ => parameter.to_owned(),
    });
    format!("{authority}{path}?{}", parameters.collect::<Vec<_>>().join("&"))
}

fn is_secret(parameter: &str) -> bool {
    SECRET_PARAMETERS.contains(&parameter.to_ascii_lowercase().as_str())
}

/// Writes on, without the secrets of URLs. Each write must hold whole URLs, as a log's lines do.
#[derive(Debug)]
pub struct Redacting<W>(pub W);

impl<W: Write> Write for Redacting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(redacted(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out_and_all_else_stays() {
        for (text, shown) in [
            ("s3://bucket/path?x=1", "s3://bucket/path?x=1"),
            ("/plain/path", "/plain/path"),
            ("abfs://container@account/path", "abfs://container@account/path"),
            ("https://ann:hush@host:8/a b", "https://***@host:8/a b"),
            ("https://hush@host", "https://***@host"),
            ("s3://id:hush@bucket", "s3://***@bucket"),
            ("no store at `https://h/p?sv=1&SIG=hush&se=2`: gone", "no store at `https://h/p?sv=1&SIG=***&se=2`: gone"),
            ("https://h/?X-Amz-Signature=hush#end", "https://h/?X-Amz-Signature=***#end"),
            ("\"https://a:hush@h\", \"http://b:hush@h\"", "\"https://***@h\", \"http://***@h\""),
            ("://", "://"),
            ("é://ü@ö?sig=", "é://ü@ö?sig=***"),
        ] {
            assert_eq!(redacted(text), shown);
        }
    }

    #[test]
    fn what_is_written_is_redacted() {
        let mut written = Vec::new();
        Redacting(&mut written).write_all(b"opening https://ann:hush@host/\n").unwrap();
        assert_eq!(written, b"opening https://***@host/\n");
    }
}
