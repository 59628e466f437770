//! CapFilt's output from parts to page: bytes, round trips, manifest, card, verification, report.

mod card;
mod faults;
mod fixture;
mod manifest;
mod parts;
mod report;
mod verify;
