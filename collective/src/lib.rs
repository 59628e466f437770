//! Collectives with deadlines: NCCL for GPUs, TCP for CPUs.
