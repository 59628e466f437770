//! A journal that is behind takes over what is written beside the output.

use quern_machine::*;

fn carry_out(machine: &mut Machine, event: &Event) {
    let decision = machine.decide(event);
    decision.records.iter().for_each(|record| machine.absorb(record));
}

fn plan(name: &str) -> ShardPlan {
    ShardPlan { shard: ShardId(name.into()), dataset: "d".into(), file: "f".into(), row_start: 0, rows: 10 }
}

fn part(name: &str) -> PartSummary {
    let data = Some(format!("data/{name}-x.parquet"));
    PartSummary { data, digest: "x".into(), rows: 10, kept: 10, ..PartSummary::default() }
}

/// Whoever looks through the parts goes from each to the one before; all had the same place there.
#[test]
fn parts_that_are_taken_over_can_be_looked_through_one_by_one() {
    let mut machine = Machine::new(Config::new(100, 2));
    carry_out(&mut machine, &Event::Start { now_ms: 0, resume: true, incarnation: Incarnation(5), behind: true });
    let shards = ["a", "b", "c"].map(plan).to_vec();
    carry_out(&mut machine, &Event::Planned { shards, unreadable: Vec::new() });
    let acceptances = ["b", "c"]
        .map(|name| Acceptance::Part { shard: ShardId(name.into()), file: "f".into(), part: part(name) })
        .to_vec();
    carry_out(&mut machine, &Event::AcceptancesRead { acceptances });

    let mut seen = Vec::new();
    let mut before = None;
    while let Some((epoch, plan, _)) = machine.last_part(before) {
        seen.push(plan.shard.0.clone());
        before = Some(epoch);
    }
    seen.sort_unstable();
    assert_eq!(seen, ["b", "c"]);
}
