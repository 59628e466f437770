//! Whether parts carry images, and of what size.

use serde::{Deserialize, Serialize};

/// Whether parts carry the images: `false`, `true`, or `{max_side, quality}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "`embed_images` is true, false or { max_side: PIXELS, quality: 1 to 100 }")]
pub enum EmbedImages {
    /// Not at all, or as they are.
    Whole(bool),
    /// Made smaller.
    Shrunk(Shrink),
}

/// How images are made smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shrink {
    /// Width or height at most, whichever is larger, in pixels; the other keeps its proportion.
    pub max_side: u32,
    /// JPEG quality, 1 to 100.
    #[serde(default = "ninety")]
    pub quality: u8,
}

impl Default for EmbedImages {
    fn default() -> Self {
        EmbedImages::Whole(false)
    }
}

impl EmbedImages {
    /// Whether parts carry images.
    pub fn is_on(self) -> bool {
        self != EmbedImages::Whole(false)
    }

    /// How they are made smaller, if they are.
    pub fn shrink(self) -> Option<Shrink> {
        match self {
            EmbedImages::Whole(_) => None,
            EmbedImages::Shrunk(shrink) => Some(shrink),
        }
    }
}

fn ninety() -> u8 {
    90
}
