//! The stages and retrieval as the worker calls them: real files in, a checkpoint out.

mod captions;
mod milled;
mod stage1;
mod stage2;
