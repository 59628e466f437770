//! What goes wrong, beside what befalls single messages.

use quern_machine::Control;

use crate::cluster::{Cluster, LEASE_MS, What};
use crate::coordinator::more;
use crate::disk::AppendFault;

impl Cluster {
    /// Something goes wrong, and the next thing is on its way.
    pub(crate) fn next_fault(&mut self) {
        if !self.is_rough() {
            // What is armed but has not struck goes away with all other faults.
            self.disk.arm(None, &mut self.dice);
            self.coordinator.dies_after_append = false;
            return;
        }
        self.strike();
        let in_ms = self.dice.between(200, 1_000);
        self.after(in_ms, What::Fault);
    }

    fn strike(&mut self) {
        let worker = self.dice.between(0, self.workers.len() as u64 - 1) as usize;
        let term_ms = self.dice.between(LEASE_MS / 4, LEASE_MS * 3);
        let until_ms = self.now_ms + term_ms;
        match self.dice.between(0, 26) {
            0..3 => {
                self.fault("worker paused");
                self.workers[worker].pause(until_ms);
            }
            3..5 => {
                self.fault("worker crashed");
                self.crash_worker(worker);
            }
            5 => {
                self.fault("worker told to leave");
                self.workers[worker].leave = true;
            }
            6 => {
                self.fault("partition both ways");
                self.workers[worker].mute_until_ms = until_ms;
                self.workers[worker].deaf_until_ms = until_ms;
            }
            7 => {
                self.fault("partition towards the coordinator");
                self.workers[worker].mute_until_ms = until_ms;
            }
            8 => {
                self.fault("partition from the coordinator");
                self.workers[worker].deaf_until_ms = until_ms;
            }
            9 if self.coordinator.is_up() => {
                self.fault("coordinator killed between turns");
                self.kill_coordinator();
            }
            10 => self.arm(AppendFault::DieBefore),
            11..13 => self.arm(AppendFault::DieWithin),
            13 => {
                // Counted when it strikes.
                self.coordinator.dies_after_append = true;
            }
            14..16 => self.arm(AppendFault::Nothing),
            16..18 => self.arm(AppendFault::Written),
            18 => {
                self.fault("disk full");
                let unreadable = self.dice.per_mille(300);
                self.disk.fill(true, unreadable);
                self.after(term_ms, What::DiskHeals);
            }
            19 => {
                self.fault("run paused");
                self.operate(Control::Pause { reason: "an operator wants it".into() });
                self.coordinator.pause_until_ms = until_ms;
            }
            20 => {
                self.fault("worker sent away");
                let named = self.workers[worker].caller.as_ref().map(|caller| caller.worker);
                if let Some(worker) = named {
                    self.operate(Control::Drain { worker, reason: "an operator wants it".into() });
                }
            }
            21..23 if self.disk.is_below_sqlite() => {
                self.fault("SQLite: syncs lie");
                self.disk.lie(true);
                self.after(term_ms, What::DiskHeals);
                let in_ms = self.dice.between(20, 2 * term_ms);
                self.after(in_ms, What::PowerCut);
            }
            23 => {
                self.fault("rows retried");
                let reasons = ["image_missing", "shard/given_up"].map(String::from).into();
                self.operate(Control::Retry { reasons });
            }
            24 => {
                self.fault("files added");
                let (life, file) = (self.coordinator.life, self.dice.between(25, 28));
                self.after(0, What::Job { life, event: more(file) });
            }
            _ => {
                self.fault("clock jumped");
                self.coordinator.ahead_ms += term_ms / 2;
            }
        }
    }

    /// The next append goes wrong; it is counted when it does.
    fn arm(&mut self, fault: AppendFault) {
        self.disk.arm(Some(fault), &mut self.dice);
    }

    pub(crate) fn disk_heals(&mut self) {
        self.disk.fill(false, false);
        self.disk.lie(false);
    }
}
