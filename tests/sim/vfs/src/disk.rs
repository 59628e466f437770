//! The model of a disk: each file as programs see it (the page cache), as it is durable, and what lies between.

use std::collections::BTreeMap;

/// What is written at once or not at all.
const SECTOR: usize = 512;

/// A source of chance.
pub trait Chance {
    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64;
}

/// How an operation goes wrong, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The next read fails.
    ReadFails,
    /// The next write fails, and nothing is written.
    WriteFails,
    /// The next write fails with so many thousandths of its bytes written: no space is left.
    WriteIsShort(u64),
    /// The next sync fails. What it should have made durable stays in the cache and is never written.
    SyncFails,
    /// The process dies within the write after so many others; so many thousandths of its bytes are written.
    DiesWriting {
        /// Writes that go well before.
        after: u64,
        /// Of the write's bytes, in thousandths.
        share: u64,
    },
    /// The process dies in the sync after so many others, with nothing of it done.
    DiesSyncing {
        /// Syncs that go well before.
        after: u64,
    },
}

/// Why an operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A device error, or the process is dead.
    Device,
    /// No space is left.
    Full,
}

/// A change of a file that isn't durable.
#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Resize(usize),
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[*offset..end].copy_from_slice(bytes);
            }
            Change::Resize(length) => to.resize(*length, 0),
        }
    }

    /// What of it a power cut leaves: all, nothing, or its first sectors.
    fn torn(&self, chance: &mut dyn Chance) -> Option<Change> {
        match (chance.below(3), self) {
            (0, _) => None,
            (1, Change::Write { offset, bytes }) => {
                let sectors = bytes.len().div_ceil(SECTOR) as u64;
                let length = chance.below(sectors + 1) as usize * SECTOR;
                let bytes = bytes[..length.min(bytes.len())].to_vec();
                Some(Change::Write { offset: *offset, bytes })
            }
            _ => Some(self.clone()),
        }
    }

    fn is(&self, other: &Change) -> bool {
        match (self, other) {
            (Change::Write { bytes, .. }, Change::Write { bytes: others, .. }) => bytes.len() == others.len(),
            _ => true,
        }
    }
}

#[derive(Debug, Clone, Default)]
struct File {
    cached: Vec<u8>,
    durable: Vec<u8>,
    waiting: Vec<Change>,
    /// How many of the waiting changes a sync has said to be durable.
    vouched: usize,
}

impl File {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.cached);
        self.waiting.push(change);
    }

    fn settle(&mut self) {
        let File { durable, waiting, .. } = self;
        waiting.drain(..).for_each(|change| change.apply(durable));
        self.vouched = 0;
    }

    /// What a power cut leaves of it, and whether anything is gone that was said to be durable.
    fn cut(&self, chance: &mut dyn Chance) -> (Vec<u8>, bool) {
        let mut left = self.durable.clone();
        let mut is_betrayed = false;
        for (at, change) in self.waiting.iter().enumerate() {
            let part = change.torn(chance);
            is_betrayed |= at < self.vouched && !part.as_ref().is_some_and(|part| part.is(change));
            if let Some(part) = part {
                part.apply(&mut left);
            }
        }
        (left, is_betrayed)
    }
}

/// A disk as one process sees it.
#[derive(Debug, Default)]
pub struct Disk {
    files: BTreeMap<String, File>,
    armed: Option<Fault>,
    struck: Vec<Fault>,
    /// No file may grow.
    pub is_full: bool,
    /// Nothing can be read.
    pub is_unreadable: bool,
    /// Syncs say that all is durable, and nothing is.
    pub is_lying: bool,
    is_dead: bool,
    is_betrayed: bool,
    writes: u64,
    syncs: u64,
}

impl Disk {
    /// Lets something go wrong, in place of what was to go wrong before.
    pub fn arm(&mut self, fault: Option<Fault>) {
        (self.writes, self.syncs) = (0, 0);
        self.armed = fault;
    }

    /// What has gone wrong since this was last asked.
    pub fn take_struck(&mut self) -> Vec<Fault> {
        std::mem::take(&mut self.struck)
    }

    /// Whether the process has died: nothing works any more.
    pub fn is_dead(&self) -> bool {
        self.is_dead
    }

    /// Whether something was lost before this process began that a sync had said to be durable.
    pub fn is_betrayed(&self) -> bool {
        self.is_betrayed
    }

    /// The disk that the next process finds when this one is killed now: the cache outlives a process.
    pub(crate) fn after_kill(&mut self) -> Disk {
        Disk { files: self.files.clone(), ..self.outlive() }
    }

    /// The disk that the next process finds when the power is cut now: each change that isn't durable is there, or isn't,
    /// or in part.
    pub(crate) fn after_power_cut(&mut self, chance: &mut dyn Chance) -> Disk {
        let mut after = self.outlive();
        for (name, file) in &self.files {
            let (bytes, is_betrayed) = file.cut(chance);
            after.is_betrayed |= is_betrayed;
            after.files.insert(name.clone(), File { cached: bytes.clone(), durable: bytes, ..File::default() });
        }
        after
    }

    /// An empty disk on the same device, which is as full, unreadable and honest as before.
    fn outlive(&mut self) -> Disk {
        self.is_dead = true;
        let Disk { is_full, is_unreadable, is_lying, .. } = *self;
        Disk { is_full, is_unreadable, is_lying, ..Disk::default() }
    }

    fn strike(&mut self, is_it: impl Fn(Fault) -> bool) -> Option<Fault> {
        let fault = self.armed.take_if(|fault| is_it(*fault));
        self.struck.extend(fault);
        fault
    }

    fn is_reachable(&self) -> Result<(), Failure> {
        if self.is_dead || self.is_unreadable { Err(Failure::Device) } else { Ok(()) }
    }

    pub(crate) fn open(&mut self, name: &str, create: bool) -> Result<(), Failure> {
        self.is_reachable()?;
        if !self.files.contains_key(name) {
            if !create || self.is_full {
                return Err(if create { Failure::Full } else { Failure::Device });
            }
            self.files.insert(name.into(), File::default());
        }
        Ok(())
    }

    pub(crate) fn exists(&self, name: &str) -> Result<bool, Failure> {
        self.is_reachable()?;
        // SQLite takes an empty log for none, as its own unix VFS does.
        Ok(self.files.get(name).is_some_and(|file| !file.cached.is_empty()))
    }

    /// Deletes a file, for good at once.
    pub(crate) fn delete(&mut self, name: &str) -> Result<bool, Failure> {
        self.is_reachable()?;
        Ok(self.files.remove(name).is_some())
    }

    pub(crate) fn size(&self, name: &str) -> Result<usize, Failure> {
        self.is_reachable()?;
        Ok(self.files.get(name).map_or(0, |file| file.cached.len()))
    }

    /// Reads what is there of the range; gives the number of bytes.
    pub(crate) fn read(&mut self, name: &str, offset: usize, into: &mut [u8]) -> Result<usize, Failure> {
        self.is_reachable()?;
        if self.strike(|fault| fault == Fault::ReadFails).is_some() {
            return Err(Failure::Device);
        }
        let cached = self.files.get(name).map_or(&[][..], |file| &file.cached);
        let there = cached.get(offset..).unwrap_or_default();
        let length = there.len().min(into.len());
        into[..length].copy_from_slice(&there[..length]);
        Ok(length)
    }

    pub(crate) fn write(&mut self, name: &str, offset: usize, bytes: &[u8]) -> Result<(), Failure> {
        self.is_reachable()?;
        let file = self.files.get(name).ok_or(Failure::Device)?;
        if self.is_full && offset + bytes.len() > file.cached.len() {
            return Err(Failure::Full);
        }
        let before = self.writes;
        self.writes += 1;
        let fault = self.strike(|fault| match fault {
            Fault::WriteFails | Fault::WriteIsShort(_) => true,
            Fault::DiesWriting { after, .. } => before == after,
            _ => false,
        });
        let (share, outcome) = match fault {
            Some(Fault::WriteFails) => (0, Err(Failure::Device)),
            Some(Fault::WriteIsShort(share)) => (share, Err(Failure::Full)),
            Some(Fault::DiesWriting { share, .. }) => {
                self.is_dead = true;
                (share, Err(Failure::Device))
            }
            _ => (1_000, Ok(())),
        };
        let length = bytes.len() * share as usize / 1_000;
        if length > 0
            && let Some(file) = self.files.get_mut(name)
        {
            file.change(Change::Write { offset, bytes: bytes[..length].to_vec() });
        }
        outcome
    }

    pub(crate) fn resize(&mut self, name: &str, length: usize) -> Result<(), Failure> {
        self.is_reachable()?;
        self.files.get_mut(name).ok_or(Failure::Device)?.change(Change::Resize(length));
        Ok(())
    }

    pub(crate) fn sync(&mut self, name: &str) -> Result<(), Failure> {
        self.is_reachable()?;
        let before = self.syncs;
        self.syncs += 1;
        let fault = self.strike(|fault| match fault {
            Fault::SyncFails => true,
            Fault::DiesSyncing { after } => before == after,
            _ => false,
        });
        let file = self.files.get_mut(name).ok_or(Failure::Device)?;
        match fault {
            Some(Fault::SyncFails) => {
                file.waiting.clear();
                file.vouched = 0;
                return Err(Failure::Device);
            }
            Some(Fault::DiesSyncing { .. }) => {
                self.is_dead = true;
                return Err(Failure::Device);
            }
            _ if self.is_lying => file.vouched = file.waiting.len(),
            _ => file.settle(),
        }
        Ok(())
    }
}
