//! The simulated disk: what a process that dies within an append leaves behind.

use quern_machine::{Record, WorkerId};
use quern_sim::disk::{AppendFault, Disk};

fn records_after_dying_within(share: u64, sqlite: bool) -> usize {
    let mut disk = Disk::new(sqlite).expect("a temporary folder can be made");
    let record = |id| Record::WorkerLost { worker: WorkerId(id) };
    let mut journal = disk.open().expect("it opens");
    journal.replay(&mut |_| {}).expect("it is empty");
    journal.append(&[&record(1)]).expect("nothing is wrong yet");
    disk.tape().fault = Some(AppendFault::DieWithin(share));
    let long: Vec<_> = (2..500).map(record).collect();
    journal.append(&long.iter().collect::<Vec<_>>()).expect_err("the process dies");
    disk.kill().expect("the files can be copied");
    drop(journal);
    let mut found = Vec::new();
    let mut journal = disk.open().expect("the next process opens it");
    journal.replay(&mut |record| found.push(record)).expect("it is whole");
    journal.append(&[&record(1_000)]).expect("it goes on");
    assert!(found.iter().cloned().eq((1..).map(record).take(found.len())), "{found:?}");
    found.len()
}

#[test]
fn an_append_within_which_the_process_dies_is_there_whole_or_not_at_all() {
    for sqlite in [false, true] {
        let found: Vec<_> = (0..=10).map(|tenth| records_after_dying_within(tenth * 100, sqlite)).collect();
        assert!(found.iter().all(|records| [1, 499].contains(records)), "{found:?}");
        assert_eq!((found[0], found[10]), (1, 499));
    }
}
