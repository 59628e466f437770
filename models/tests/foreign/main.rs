//! The parsers of models' files, one file each. They link torch.

mod configs;
mod tokenizers;
mod weights;
