//! Whether and when a fetch that failed is tried again.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::failure::Failure;

/// How often and how long a failing server is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Tries after the first.
    pub retries: u32,
    /// Before the second try; doubled with every further one.
    pub first_wait: Duration,
    /// No single wait is longer: a server that asks for more is not tried again.
    pub longest_wait: Duration,
}

impl Patience {
    /// How long to wait after `failed` tries, the last of which ended so; none: give up. `key` spreads those apart that
    /// fail together.
    pub fn wait(&self, failed: u32, failure: &Failure, key: u64) -> Option<Duration> {
        if failed > self.retries || !failure.is_passing() {
            return None;
        }
        let doubled = self.first_wait.saturating_mul(1 << (failed - 1).min(20)).min(self.longest_wait);
        let share = (key.wrapping_add(u64::from(failed)) % 1000) as u32;
        let wait = doubled / 2 + doubled * share / 2000;
        match failure.retry_after() {
            Some(asked) => (asked <= self.longest_wait).then_some(asked.max(wait)),
            None => Some(wait),
        }
    }
}

/// What a server asks for in `Retry-After`: seconds, or a date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::StatusCode;

    const PATIENCE: Patience =
        Patience { retries: 3, first_wait: Duration::from_secs(1), longest_wait: Duration::from_secs(30) };

    fn status(code: u16, retry_after: Option<u64>) -> Failure {
        let status = StatusCode::from_u16(code).unwrap();
        Failure::Status { url: "u".into(), status, retry_after: retry_after.map(Duration::from_secs) }
    }

    #[test]
    fn waits_double_and_end() {
        for (failed, at_least, below) in [(1, 500, 1000), (2, 1000, 2000), (3, 2000, 4000)] {
            for key in [0, 1, 999, u64::MAX] {
                let wait = PATIENCE.wait(failed, &status(503, None), key).unwrap().as_millis();
                assert!((at_least..below).contains(&wait), "{failed}: {wait}");
                assert_eq!(PATIENCE.wait(failed, &status(503, None), key).unwrap().as_millis(), wait);
            }
        }
        assert_eq!(PATIENCE.wait(4, &status(503, None), 0), None);
        let endless = Patience { retries: u32::MAX, ..PATIENCE };
        assert!(endless.wait(50, &status(503, None), 7).unwrap() <= PATIENCE.longest_wait);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for code in [408, 425, 429, 500, 502, 503, 504] {
            assert!(PATIENCE.wait(1, &status(code, None), 0).is_some(), "{code}");
        }
        for code in [400, 401, 403, 404, 410, 451] {
            assert_eq!(PATIENCE.wait(1, &status(code, None), 0), None, "{code}");
        }
        let large = Failure::TooLarge { url: "u".into(), max_bytes: 1 };
        assert_eq!(PATIENCE.wait(1, &large, 0), None);
        assert!(PATIENCE.wait(1, &Failure::Timeout { url: "u".into() }, 0).is_some());
    }

    #[test]
    fn a_server_is_waited_for_as_it_asks_within_bounds() {
        assert_eq!(PATIENCE.wait(1, &status(429, Some(7)), 0), Some(Duration::from_secs(7)));
        assert!(PATIENCE.wait(1, &status(429, Some(0)), 0).unwrap() >= Duration::from_millis(500));
        assert_eq!(PATIENCE.wait(1, &status(429, Some(31)), 0), None);
    }

    #[test]
    fn seconds_and_dates_are_understood() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (value, wanted) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), wanted.map(Duration::from_secs), "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
