//! A simulated disk under the real SQLite: a VFS whose files are in memory and fail as they are told.
//!
//! `disk` is the model (what is cached, what is durable, what goes wrong) in safe code; `vfs` is the boundary to SQLite,
//! the only unsafe code. Decision 0018.
//!
//! ```
//! use quern_sim_vfs::{Chance, Storage};
//! use rusqlite::{Connection, OpenFlags};
//!
//! struct Never;
//! impl Chance for Never {
//!     fn below(&mut self, _: u64) -> u64 {
//!         0
//!     }
//! }
//!
//! let storage = Storage::new();
//! let database = Connection::open_with_flags_and_vfs(storage.path("a.db"), OpenFlags::default(), Storage::VFS)?;
//! database.execute_batch("create table t (x); insert into t values (1)")?;
//! let after = storage.after_power_cut(&mut Never);
//! drop(database);
//! let database = Connection::open_with_flags_and_vfs(after.path("a.db"), OpenFlags::default(), Storage::VFS)?;
//! assert_eq!(database.query_row("select x from t", [], |row| row.get::<_, i64>(0))?, 1);
//! # Ok::<(), rusqlite::Error>(())
//! ```

mod disk;
mod vfs;

pub use disk::{Chance, Disk, Fault};
pub use vfs::Storage;
