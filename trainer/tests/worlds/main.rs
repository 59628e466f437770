//! The production train loop over TCP: the same losses on 1, 2, 3 and 4 ranks, after a resume, and after a stop; for both
//! stages.

mod stage1;
mod stage2;
mod world;
