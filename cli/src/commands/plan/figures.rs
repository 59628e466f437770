//! Figures as people write them, and two means.

/// The mean; 0 of none.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// The middle one, the lower of two; 0 of none.
pub fn median(mut values: Vec<u32>) -> u32 {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

/// `129,000,000`
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `12.3 MiB`, of a number of bytes.
pub fn bytes(count: f64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024.0 {
        return format!("{count:.0} B");
    }
    let mut value = count / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

/// Three significant digits at least: `0.0123`, `4.57`, `1,234`.
pub fn significant(value: f64) -> String {
    match value {
        value if value >= 100.0 => grouped(value.round() as u64),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 1.0 => format!("{value:.2}"),
        value if value <= 0.0 => "0".into(),
        value => format!("{value:.*}", (2.0 - value.log10().floor()).min(9.0) as usize),
    }
}

/// `40 s`, `12 min`, `5.2 h`, `3.1 days`.
pub fn time(hours: f64) -> String {
    match hours * 3600.0 {
        seconds if seconds < 119.5 => format!("{seconds:.0} s"),
        seconds if seconds < 7_170.0 => format!("{:.0} min", seconds / 60.0),
        seconds if seconds < 172_800.0 => format!("{hours:.1} h"),
        _ => format!("{} days", significant(hours / 24.0)),
    }
}

/// `12 %`, `0.5 %`; what is there is never 0, and what is not all never 100.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0 %".into();
    }
    let percent = 100.0 * part as f64 / whole as f64;
    match part {
        0 => "0 %".into(),
        part if part == whole => "100 %".into(),
        _ => format!("{:.1} %", percent.clamp(0.1, 99.9)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!([0, 999, 1000, 129_000_000].map(grouped), ["0", "999", "1,000", "129,000,000"]);
        assert_eq!([0.0, 1023.0, 1024.0, 3.5e9, 9e15].map(bytes), ["0 B", "1023 B", "1.0 KiB", "3.3 GiB", "8.0 PiB"]);
        let values = [0.0, 0.01234, 0.5, 4.567, 45.67, 4567.8];
        assert_eq!(values.map(significant), ["0", "0.0123", "0.500", "4.57", "45.7", "4,568"]);
        assert_eq!([0.0, 0.01, 0.5, 5.2, 75.0].map(time), ["0 s", "36 s", "30 min", "5.2 h", "3.12 days"]);
        assert_eq!(percent(0, 0), "0 %");
        assert_eq!(
            [0, 1, 500, 9_999, 10_000].map(|part| percent(part, 10_000)),
            ["0 %", "0.1 %", "5.0 %", "99.9 %", "100 %"]
        );
    }

    #[test]
    fn means_of_nothing_are_0() {
        assert_eq!((mean(&[]), mean(&[1.0, 2.0])), (0.0, 1.5));
        assert_eq!((median(vec![]), median(vec![9, 1, 5]), median(vec![4, 1])), (0, 5, 1));
    }
}
