//! Numbers as people read them.

/// "12.5 % (1 of 8)".
pub(super) fn share(part: u64, whole: u64) -> String {
    match whole {
        0 => "–".into(),
        whole => format!("{} <span>({} of {})</span>", percent(part, whole), grouped(part), grouped(whole)),
    }
}

/// "12.5 %".
pub(super) fn percent(part: u64, whole: u64) -> String {
    format!("{:.1} %", part as f64 / whole.max(1) as f64 * 100.0)
}

/// The first digits of a digest.
pub(super) fn shortened(digest: &str) -> String {
    digest.chars().take(12).collect()
}

/// "1 row", "1,234 rows".
pub(super) fn counted(number: u64, one: &str) -> String {
    format!("{} {one}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// 1234567 as 1,234,567.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, 1234567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1, 1234].map(|rows| counted(rows, "row")), ["0 rows", "1 row", "1,234 rows"]);
        assert_eq!(share(1, 8), "12.5 % <span>(1 of 8)</span>");
        assert_eq!(share(0, 0), "–");
        assert_eq!(percent(0, 0), "0.0 %");
    }
}
