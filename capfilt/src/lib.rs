//! CapFilt's output: layout, selection, quarantine, manifest, verify, report (no torch).
