//! Opting out of such use, as img2dataset reads it: `X-Robots-Tag` with one of four directives, for everybody or for a
//! user agent by its name.

use reqwest::header::HeaderMap;

/// What a server says when its images are not for data sets.
const FORBIDDING: [&str; 4] = ["noai", "noimageai", "noindex", "noimageindex"];

/// The directive that forbids the use of what came with these headers to the agent of this name (in lower case).
pub(super) fn opted_out(headers: &HeaderMap, agent: &str) -> Option<&'static str> {
    headers.get_all("x-robots-tag").iter().find_map(|value| {
        let value = String::from_utf8_lossy(value.as_bytes()).to_lowercase();
        let directives = match value.split_once(':') {
            None => value.as_str(),
            Some((name, directives)) if name.trim() == agent => directives,
            Some(_) => return None,
        };
        directives.split(',').find_map(|said| FORBIDDING.into_iter().find(|directive| said.trim() == *directive))
    })
}

/// The name in a user agent: `my-lab/1.0 (+https://…)` is `my-lab`.
pub(super) fn agent_name(user_agent: &str) -> String {
    let name = user_agent.trim().split(['/', ' ']).next().unwrap_or_default();
    name.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_directives_forbid_for_all_or_by_name() {
        for (values, wanted) in [
            (&["noai"][..], Some("noai")),
            (&["NoImageAI"], Some("noimageai")),
            (&["nofollow, noindex"], Some("noindex")),
            (&["nofollow", "max-snippet:5", "noimageindex"], Some("noimageindex")),
            (&["quern: noai"], Some("noai")),
            (&["Quern: nofollow, noai"], Some("noai")),
            (&["googlebot: noai"], None),
            (&["googlebot: noai", "quern: noindex"], Some("noindex")),
            (&["all"], None),
            (&["none"], None),
            (&["noaireally, index"], None),
            (&["unavailable_after: 25 Jun 2010 15:00:00 PST, noindex"], None),
            (&[""], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| {
                headers.append("X-Robots-Tag", value.parse().unwrap());
            });
            assert_eq!(opted_out(&headers, "quern"), wanted, "{values:?}");
        }
    }

    #[test]
    fn an_agent_has_a_name() {
        for (agent, name) in [("quern/0.1.0", "quern"), ("My-Lab (+https://x)", "my-lab"), (" a", "a"), ("", "")] {
            assert_eq!(agent_name(agent), name);
        }
    }
}
