//! Which shards took longest, where that is known.

use std::fmt::Write;

use super::escape::escape;
use super::readable::grouped;
use crate::slowest::{SlowShard, SlowestShards};

/// Shards that are shown at most.
const SHOWN: usize = 10;

pub(super) fn slowest(known: Option<&SlowestShards>) -> String {
    let mut html = String::from("<section><h2>Slowest shards</h2>");
    let shards = known.map_or(&[][..], |known| &known.shards);
    match shards {
        [] => html.push_str(UNKNOWN),
        shards => html.push_str(&table(&shards[..shards.len().min(SHOWN)])),
    }
    html.push_str("</section>\n");
    html
}

/// An output says nothing of times: that is why its bytes are the same each time.
const UNKNOWN: &str = "<p>How long shards took is not known here: it is in no file of an output but in \
    <code>OUTPUT.coordinators/slowest.json</code> beside it, which the coordinator of the run leaves there.</p>";

fn table(shards: &[SlowShard]) -> String {
    let mut html = String::from(
        "<p>From the lease of the attempt that was accepted to its commit; loading the models is in it.</p>\
         <div class=\"wide\"><table class=\"slowest\"><tr><th scope=\"col\">shard</th><th scope=\"col\">rows</th>\
         <th scope=\"col\">seconds</th><th scope=\"col\">rows/s</th><th scope=\"col\">attempts</th>\
         <th scope=\"col\">worker</th></tr>",
    );
    for SlowShard { shard, rows, took_ms, attempts, worker } in shards {
        let seconds = *took_ms as f64 / 1_000.0;
        let pace = if *took_ms == 0 { "–".into() } else { format!("{:.1}", *rows as f64 / seconds) };
        let _ = write!(
            html,
            "<tr><th scope=\"row\"><code>{}</code></th><td>{}</td><td>{seconds:.1}</td><td>{pace}</td><td>{attempts}</td>\
             <td>{}</td></tr>",
            escape(shard),
            grouped(*rows),
            escape(worker)
        );
    }
    html.push_str("</table></div>");
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(shard: &str, took_ms: u64) -> SlowShard {
        SlowShard { shard: shard.into(), rows: 1_500, took_ms, attempts: 2, worker: "host-<1>".into() }
    }

    #[test]
    fn a_line_says_how_slow_and_nothing_is_markup() {
        let shards = vec![slow("toy<b>-0", 2_000), slow("toy-1", 0)];
        let html = slowest(Some(&SlowestShards { recipe_hash: "r".into(), shards }));
        for expected in [
            "<code>toy&lt;b&gt;-0</code></th><td>1,500</td><td>2.0</td><td>750.0</td><td>2</td><td>host-&lt;1&gt;</td>",
            "<td>0.0</td><td>–</td>",
        ] {
            assert!(html.contains(expected), "`{expected}` is missing in {html}");
        }
    }

    #[test]
    fn ten_are_shown_and_of_none_it_is_said_why() {
        let shards = (0..12).map(|at| slow(&format!("toy-{at}"), 1)).collect();
        let known = SlowestShards { recipe_hash: "r".into(), shards };
        assert_eq!(slowest(Some(&known)).matches("<code>toy-").count(), 10);
        for unknown in [None, Some(&SlowestShards { recipe_hash: "r".into(), shards: Vec::new() })] {
            assert!(slowest(unknown).contains("not known here") && !slowest(unknown).contains("<table"));
        }
    }
}
