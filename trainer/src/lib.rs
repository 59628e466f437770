//! Objectives, optimiser, schedules, checkpoints, stage 1, evaluation.
