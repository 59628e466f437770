//! Changes of a seed: what damages files, and what deceives parsers.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Numbers at which parsers go wrong, written over one to eight bytes, either end first.
const NUMBERS: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];
/// A result is never longer: what was put together of itself soon would be.
const MAX_BYTES: usize = 1 << 20;

/// One change. Places are fractions of the length.
#[derive(Debug, Clone)]
pub enum Edit {
    /// A bit is turned.
    Flip { at: Index, bit: u8 },
    /// A byte has another value.
    Set { at: Index, value: u8 },
    /// A number stands there that is at an edge.
    Number { at: Index, value: u64, bytes: usize, big_endian: bool },
    /// A digit stands there, so that numbers in text change, too.
    Digit { at: Index, digit: u8 },
    /// The rest is cut off.
    Cut { at: Index },
    /// A piece is left out.
    Remove { at: Index, bytes: usize },
    /// Bytes of no meaning are put in.
    Insert { at: Index, bytes: Vec<u8> },
    /// A piece of a seed is put in, or stands in the place of as many bytes.
    Graft { at: Index, seed: Index, from: Index, bytes: usize, instead: bool },
}

impl Arbitrary for Edit {
    type Parameters = ();
    type Strategy = BoxedStrategy<Edit>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        let at = any::<Index>;
        prop_oneof![
            (at(), 0..8u8).prop_map(|(at, bit)| Edit::Flip { at, bit }),
            (at(), any::<u8>()).prop_map(|(at, value)| Edit::Set { at, value }),
            (at(), select(&NUMBERS[..]), select(&[1, 2, 4, 8][..]), any::<bool>())
                .prop_map(|(at, value, bytes, big_endian)| Edit::Number { at, value, bytes, big_endian }),
            (at(), b'0'..=b'9').prop_map(|(at, digit)| Edit::Digit { at, digit }),
            at().prop_map(|at| Edit::Cut { at }),
            (at(), 1..40usize).prop_map(|(at, bytes)| Edit::Remove { at, bytes }),
            (at(), vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Edit::Insert { at, bytes }),
            (at(), at(), at(), 1..200usize, any::<bool>()).prop_map(|(at, seed, from, bytes, instead)| Edit::Graft {
                at,
                seed,
                from,
                bytes,
                instead
            }),
        ]
        .boxed()
    }
}

/// The seed with its changes; grafts are cut from `seeds`.
pub fn edited(seed: &[u8], edits: &[Edit], seeds: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for edit in edits {
        edit.apply(&mut bytes, seeds);
        bytes.truncate(MAX_BYTES);
    }
    bytes
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>, seeds: &[(String, Vec<u8>)]) {
        // One place more than there are bytes: the end.
        let length = bytes.len();
        let place = |at: &Index| at.index(length + 1);
        match self {
            Edit::Flip { at, bit } => {
                let at = place(at);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            Edit::Set { at, value } => overwrite(bytes, place(at), &[*value]),
            Edit::Number { at, value, bytes: count, big_endian: true } => {
                overwrite(bytes, place(at), &value.to_be_bytes()[8 - count..]);
            }
            Edit::Number { at, value, bytes: count, big_endian: false } => {
                overwrite(bytes, place(at), &value.to_le_bytes()[..*count]);
            }
            Edit::Digit { at, digit } => {
                let from = place(at);
                let at = bytes[from..].iter().position(u8::is_ascii_digit).map_or(from, |after| from + after);
                overwrite(bytes, at, &[*digit]);
            }
            Edit::Cut { at } => bytes.truncate(place(at)),
            Edit::Remove { at, bytes: count } => {
                let at = place(at);
                bytes.drain(at..(at + count).min(bytes.len()));
            }
            Edit::Insert { at, bytes: new } => {
                let at = place(at);
                drop(bytes.splice(at..at, new.iter().copied()));
            }
            Edit::Graft { at, seed, from, bytes: count, instead } => {
                let (_, seed) = seed.get(seeds);
                let from = from.index(seed.len() + 1);
                let piece = &seed[from..(from + count).min(seed.len())];
                let at = place(at);
                match instead {
                    true => overwrite(bytes, at, piece),
                    false => drop(bytes.splice(at..at, piece.iter().copied())),
                }
            }
        }
    }
}

/// Writes over what is there, as far as there is something.
fn overwrite(bytes: &mut [u8], at: usize, new: &[u8]) {
    let count = new.len().min(bytes.len() - at);
    bytes[at..at + count].copy_from_slice(&new[..count]);
}
