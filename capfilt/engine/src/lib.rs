//! CapFilt on a device: caption, rank, keep.
