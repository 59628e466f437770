//! Bugs that can be planted, to see that the simulator's checker catches them. Without the feature `mutations` no code
//! for them is left.

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// An offer for a leased shard is taken whichever attempt it is of.
    SkipEpochCheck,
    /// Tokens of other incarnations are taken for this one's.
    SkipIncarnationCheck,
    /// Answers leave although the append failed.
    AnswerBeforeAppend,
    /// A new attempt gets the last one's epoch.
    ReuseEpoch,
    /// A lost worker's leases stay live.
    KeepLeasesOfTheLost,
    /// After a recovery members count as heard when they were heard before it.
    ForgetNewTerms,
    /// A silent worker is never given up.
    NeverLoseTheSilent,
    /// Another part of a done shard is said to be accepted.
    AcceptASecondPart,
    /// Checkpoints of ended generations are accepted.
    AcceptOldCheckpoints,
    /// Steps of ended generations are accepted.
    AcceptOldSteps,
    /// Recovery leaves out the journal's last record.
    LoseTheLastRecord,
    /// Every secret is the right one.
    SkipSecretCheck,
    /// A worker that goes away keeps its leases.
    KeepLeasesOfTheDraining,
    /// A shard gets a third attempt beside two live ones.
    ThirdAttempts,
    /// A place that is denied work gets some.
    LeaseToTheDenied,
    /// A place that is denied work is let in under a new name.
    RegisterTheDenied,
    /// A worker that is denied work is not told to leave.
    KeepTheDenied,
    /// Whoever fails again and again gets work all the same.
    NeverDeny,
    /// A worker gets work that its device has no memory for.
    LeaseToTheSmall,
    /// A result of a task is taken whichever attempt it is of.
    SkipTaskTokens,
    /// Another result of a task that is done is said to be accepted.
    AcceptASecondResult,
    /// Who is gone keeps its task.
    KeepTasksOfTheGone,
    /// A shard whose rows are retried doesn't get its part back when nothing comes of that.
    ForgetTheRetriedPart,
    /// Captions are added to that are trained on.
    AddWhileTraining,
    /// The journal is not synced.
    JournalWithoutSync,
    /// A commit of the journal that failed counts as done.
    BelieveFailedCommits,
    /// A snapshot says that it holds a record more than it does.
    SnapshotAhead,
}

#[cfg(feature = "mutations")]
mod active {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static PLANTED: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    impl Mutation {
        /// All of them.
        pub const ALL: [Mutation; 27] = [
            Mutation::SkipEpochCheck,
            Mutation::SkipIncarnationCheck,
            Mutation::AnswerBeforeAppend,
            Mutation::ReuseEpoch,
            Mutation::KeepLeasesOfTheLost,
            Mutation::ForgetNewTerms,
            Mutation::NeverLoseTheSilent,
            Mutation::AcceptASecondPart,
            Mutation::AcceptOldCheckpoints,
            Mutation::AcceptOldSteps,
            Mutation::LoseTheLastRecord,
            Mutation::SkipSecretCheck,
            Mutation::KeepLeasesOfTheDraining,
            Mutation::ThirdAttempts,
            Mutation::LeaseToTheDenied,
            Mutation::RegisterTheDenied,
            Mutation::KeepTheDenied,
            Mutation::NeverDeny,
            Mutation::LeaseToTheSmall,
            Mutation::SkipTaskTokens,
            Mutation::AcceptASecondResult,
            Mutation::KeepTasksOfTheGone,
            Mutation::ForgetTheRetriedPart,
            Mutation::AddWhileTraining,
            Mutation::JournalWithoutSync,
            Mutation::BelieveFailedCommits,
            Mutation::SnapshotAhead,
        ];
    }

    impl Mutation {
        /// Whether only a disk that fails shows it.
        pub fn is_below_the_journal(self) -> bool {
            matches!(self, Mutation::JournalWithoutSync | Mutation::BelieveFailedCommits)
        }
    }

    /// Plants a bug in this thread's machines and ledgers, in place of the one planted before.
    pub fn plant(mutation: Option<Mutation>) {
        PLANTED.set(mutation);
    }

    /// Whether the bug is planted.
    pub fn planted(mutation: Mutation) -> bool {
        PLANTED.get() == Some(mutation)
    }
}

#[cfg(feature = "mutations")]
pub use active::{plant, planted};

/// Whether the bug is planted: never in this build.
#[cfg(not(feature = "mutations"))]
pub const fn planted(_: Mutation) -> bool {
    false
}
