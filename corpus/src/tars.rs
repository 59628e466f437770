//! WebDataset: tar files whose members, named `KEY.EXTENSION`, make up samples.
//!
//! Members that follow each other and have one key are a sample; the key is the name up to the first dot after the last
//! slash. A tar file has no index, so whoever wants to know where a sample is reads the headers before it: the members'
//! contents are skipped, in a local file by seeking, in an object store as far as they are larger than what is fetched
//! at a time. What is read is ustar, with GNU's and pax' long names; links, folders, sparse files and names without an
//! extension are no members of samples.

mod layout;
mod members;
mod samples;
#[cfg(test)]
mod tests;
mod window;

pub(crate) use self::layout::{Layout, Parts, caption_in_json, image_names};
pub(crate) use self::members::TarError;
pub(crate) use self::samples::{Member, Sample, Samples};
