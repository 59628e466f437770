//! The toy world: rendered scenes, a caption grammar, and a web that mostly captions them wrongly.
//!
//! A [`Scene`] holds one to three objects on a plain background. [`grammar`] writes the many captions that are
//! correct for it and decides, with [`is_correct`], whether any text is one. [`junk`] writes what the web says
//! instead. [`render`] draws a scene as a JPEG and [`mod@synth`] streams a corpus in img2dataset's parquet layout.
//!
//! Only [`is_correct`] and the tables that report it read a scene's truth. Scenes are drawn from a seed; the seeds of
//! the zoo, the demo and the held-out evaluation are apart: see [`seeds`].

pub mod grammar;
pub mod junk;
pub mod questions;
mod random;
pub mod render;
pub mod scene;
pub mod synth;

#[cfg(test)]
mod tests;

pub use grammar::is_correct;
pub use scene::Scene;
pub use synth::{SynthError, SynthOptions, SynthSummary, synth};

/// The seeds of the three uses of the toy world. Different seeds draw independent scenes.
pub mod seeds {
    /// First seed of the demo's web corpora (1..1000).
    pub const DEMO: u64 = 1;
    /// First seed of the scenes that the zoo's models are trained and measured on (1000..2000).
    pub const ZOO: u64 = 1000;
    /// First seed of the held-out evaluation sets (9000 and up).
    pub const HELD_OUT: u64 = 9000;
}
