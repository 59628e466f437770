//! Identities that can't be confused.
//!
//! ```compile_fail
//! # use quern_machine::{Epoch, Generation};
//! let epoch: Epoch = Generation(3); // a world's generation is not a shard's epoch
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The one after this.
            pub fn next(self) -> Self {
                $name(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number!(
    /// Which attempt: every attempt at any shard gets the next one.
    Epoch(u64), "");
number!(
    /// Which life of the training world: every loss of a rank ends one. The first is 1.
    Generation(u64), "");
number!(
    /// Which start of a coordinator over this journal. The first is 1.
    Incarnation(u64), "");
number!(
    /// A worker, named at registration and never again. Displayed as `w3`.
    WorkerId(u64), "w");
number!(
    /// A worker's place in the training world, counted from 0.
    Rank(u32), "");

/// A shard's name; the order of names is shard order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub String);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a worker runs, so that it is known again after a restart: `HOST/DEVICE`, or its name when it says no host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Place(pub String);

impl Place {
    /// The place of a worker that says this of itself.
    pub fn of(host: &str, device: &str, name: &str) -> Self {
        Place(if host.is_empty() { name.into() } else { format!("{host}/{device}") })
    }

    /// The host, as far as one is known.
    pub fn host(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(host, _)| host)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Digest of a worker's secret. The secret itself is drawn and hashed outside, and is in no journal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretDigest(pub String);

impl fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretDigest(…)")
    }
}

/// The fencing token of an attempt at a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShardToken {
    /// The coordinator's incarnation that granted the lease.
    pub incarnation: Incarnation,
    /// The attempt.
    pub epoch: Epoch,
}

/// The fencing token of a training world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorldToken {
    /// The coordinator's incarnation that formed the world.
    pub incarnation: Incarnation,
    /// The world's life.
    pub generation: Generation,
}
