//! Damaged bytes for parsers: each target's seeds are fed to it as they are, then changed at random.
//!
//! A [`Target`] has a name, seeds (files of `corpus/NAME`, or of a folder of tests elsewhere) and a parser. The parser may
//! refuse what it is given; it must not panic, must not take memory that its input doesn't pay for, must not take
//! seconds, and whatever it promises about what it takes, the target asserts. Changes are drawn from a fixed seed, a fixed number of
//! them: two runs do the same. With `QUERN_FUZZ_SECONDS` a target goes on for so long, from `QUERN_FUZZ_SEED` on.
//!
//! A failure is made small, and its bytes are written to a file, to be kept in the corpus. docs/decisions/0022 says
//! why this stands on proptest.

mod edit;
mod memory;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use edit::{Edit, edited};

/// Changes of a seed at a time, at most.
const MAX_EDITS: usize = 6;
/// Steps in which a failure is made smaller.
const SHRINK_STEPS: u32 = 400;
/// Longer than this no input may take, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A parser under test.
#[derive(Debug)]
pub struct Target {
    name: &'static str,
    seeds: Vec<(String, Vec<u8>)>,
    cases: u32,
    most_bytes: usize,
}

impl Target {
    /// A target whose seeds are the files of `corpus/NAME`, if there is such a folder.
    pub fn new(name: &'static str) -> Self {
        let target = Target { name, seeds: Vec::new(), cases: 1000, most_bytes: 64 << 20 };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        if folder.is_dir() { target.take_in(&folder, "") } else { target }
    }

    /// Takes the files of another folder, relative to the workspace, whose names end in `ending`, for seeds, too.
    pub fn seeds_of(self, folder: &str, ending: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        self.take_in(&root.join(folder), ending)
    }

    /// Takes these bytes for a seed, too.
    pub fn seed(mut self, name: &str, bytes: &[u8]) -> Self {
        self.seeds.push((name.into(), bytes.into()));
        self
    }

    fn take_in(mut self, folder: &Path, ending: &str) -> Self {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a listing").path()).collect();
        files.retain(|file| file.to_string_lossy().ends_with(ending));
        files.sort();
        let read = |file: PathBuf| (file.display().to_string(), std::fs::read(&file).expect("a seed can be read"));
        self.seeds.extend(files.into_iter().map(read));
        self
    }

    /// How many damaged inputs are tried unless seconds are given; 1000 if this isn't said.
    pub fn cases(self, cases: u32) -> Self {
        Target { cases, ..self }
    }

    /// How many bytes the parser may ask for at once; 64 MiB if this isn't said.
    pub fn most_bytes(self, most_bytes: usize) -> Self {
        Target { most_bytes, ..self }
    }

    /// Feeds the parser.
    ///
    /// # Panics
    /// When it fails, with the smallest input for which it does; when there are no seeds.
    pub fn run(self, parse: impl Fn(&[u8])) {
        assert!(!self.seeds.is_empty(), "{} has no seeds", self.name);
        for (file, seed) in &self.seeds {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.watched(seed, &parse))) {
                eprintln!("{}: the seed {file} fails as it is", self.name);
                std::panic::resume_unwind(panic);
            }
        }
        let first = number("QUERN_FUZZ_SEED").unwrap_or(0);
        let Some(seconds) = number("QUERN_FUZZ_SECONDS") else { return self.batch(first, self.cases, &parse) };
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut batch = first;
        while Instant::now() < end {
            self.batch(batch, 200, &parse);
            batch += 1;
        }
        println!("{}: {} inputs", self.name, (batch - first) * 200);
    }

    /// So many damaged inputs, the same for the same number.
    fn batch(&self, number: u64, cases: u32, parse: &impl Fn(&[u8])) {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&number.to_le_bytes());
        let config = Config { cases, failure_persistence: None, max_shrink_iters: SHRINK_STEPS, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
        let damage = (any::<Index>(), vec(any::<Edit>(), 1..=MAX_EDITS));
        let bytes_of = |(index, edits): &(Index, Vec<Edit>)| {
            let (_, seed) = index.get(&self.seeds);
            edited(seed, edits, &self.seeds)
        };
        let result = runner.run(&damage, |damage| {
            self.watched(&bytes_of(&damage), parse);
            Ok(())
        });
        let Err(error) = result else { return };
        let TestError::Fail(reason, damage) = error else { panic!("{}: {error}", self.name) };
        let kept = std::env::temp_dir().join(format!("quern-fuzz-{}", self.name));
        std::fs::write(&kept, bytes_of(&damage)).expect("the temporary folder can be written");
        panic!(
            "{} fails (QUERN_FUZZ_SEED={number}) on {}: {reason}\nonce it is mended, keep that file in tests/fuzz/corpus/{}",
            self.name,
            kept.display(),
            self.name,
        );
    }

    /// One input, with an eye on memory and time.
    fn watched(&self, bytes: &[u8], parse: &impl Fn(&[u8])) {
        let begin = Instant::now();
        let largest = memory::largest_allocation(|| parse(bytes));
        let (taken, length) = (begin.elapsed(), bytes.len());
        assert!(largest <= self.most_bytes, "{length} bytes of input made it ask for {largest} at once");
        assert!(taken <= PATIENCE, "{length} bytes of input took {taken:?}");
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, not a number")))
}
