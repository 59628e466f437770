//! CapFilt's output from parts to page: bytes, round trips, manifest, verification, report.

mod fixture;
mod manifest;
mod parts;
mod report;
mod verify;
