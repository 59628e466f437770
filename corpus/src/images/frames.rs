//! What the headers of an image that may move say: how many frames it has, how large they are, and whether the file
//! goes on to its end (GIF89a; PNG with APNG; the RIFF container of WebP).
//!
//! Only the first frame is decoded, and the decoders stop there: that the rest of the file is cut off, they don't see.
//! Neither do they count, and of a WebP's frame they believe a size of its own, whatever the image's is. So the blocks
//! are walked here, each by its header, and no further than to one frame more than is allowed.

use image::ImageFormat;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frames {
    /// How many, or one more than was allowed.
    pub count: u64,
    /// Width and height that hold what may be decoded, by its own headers; (0, 0) where only the image has a size.
    pub size: (u64, u64),
}

/// Walks the blocks of an image; `most` frames are allowed. An error says what is missing.
pub(super) fn frames_of(bytes: &[u8], format: ImageFormat, most: u64) -> Result<Frames, &'static str> {
    let found = match format {
        ImageFormat::Gif => gif(bytes, most),
        ImageFormat::Png => png(bytes, most),
        ImageFormat::WebP => webp(bytes, most),
        _ => return Ok(Frames { count: 1, size: (0, 0) }),
    };
    found.ok_or("it is cut off: its last block is not there, or not whole")
}

/// Takes so many bytes off the front.
fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn gif(bytes: &[u8], most: u64) -> Option<Frames> {
    /// Of a screen or a frame: whether a colour table follows, and of how many bytes.
    fn color_table(flags: u8) -> usize {
        if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
    }
    fn skip_sub_blocks(rest: &mut &[u8]) -> Option<()> {
        while let length @ 1.. = take(rest, 1)?[0] {
            take(rest, usize::from(length))?;
        }
        Some(())
    }

    let mut rest = bytes;
    let screen = take(&mut rest, 13)?;
    take(&mut rest, color_table(screen[10]))?;
    let mut frames = Frames { count: 0, size: (0, 0) };
    while frames.count <= most {
        match take(&mut rest, 1)?[0] {
            b',' => {
                let frame = take(&mut rest, 9)?;
                if frames.count == 0 {
                    frames.size = (little_endian(&frame[4..6]), little_endian(&frame[6..8]));
                }
                frames.count += 1;
                take(&mut rest, color_table(frame[8]) + 1)?; // and the size of a code
                skip_sub_blocks(&mut rest)?;
            }
            b'!' => {
                take(&mut rest, 1)?;
                skip_sub_blocks(&mut rest)?;
            }
            b';' => break,
            0 => {} // some writers end a block twice
            _ => return None,
        }
    }
    Some(frames)
}

fn png(bytes: &[u8], most: u64) -> Option<Frames> {
    let mut rest = bytes.get(8..)?;
    let mut frames = Frames { count: 0, size: (0, 0) };
    while frames.count <= most {
        let header = take(&mut rest, 8)?;
        let length = u32::from_be_bytes(header[..4].try_into().expect("four bytes"));
        let data = take(&mut rest, length as usize)?;
        take(&mut rest, 4)?; // the checksum
        match &header[4..] {
            // What is announced counts as much as what is there.
            b"acTL" => {
                let announced = u64::from(u32::from_be_bytes(*data.first_chunk()?));
                if announced > most {
                    frames.count = announced;
                }
            }
            b"fcTL" => frames.count += 1,
            b"IEND" => break,
            _ => {}
        }
    }
    Some(frames)
}

fn webp(bytes: &[u8], most: u64) -> Option<Frames> {
    /// Kind and content of the next chunk. The last one's padding may be left out.
    fn chunk<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let header = take(rest, 8)?;
        let length = little_endian(&header[4..]) as usize;
        let data = take(rest, length)?;
        take(rest, (length % 2).min(rest.len()))?;
        Some((&header[..4], data))
    }

    let mut rest = bytes;
    let header = take(&mut rest, 12)?;
    let mut rest = rest.get(..(little_endian(&header[4..8]) as usize).checked_sub(4)?)?;
    let mut frames = Frames { count: 0, size: (0, 0) };
    while frames.count <= most && !rest.is_empty() {
        match chunk(&mut rest)? {
            (b"VP8 ", data) => frames.hold(data),
            (b"ANMF", data) => {
                frames.count += 1;
                let mut inside = data.get(16..)?;
                while !inside.is_empty() {
                    if let (b"VP8 ", data) = chunk(&mut inside)? {
                        frames.hold(data);
                    }
                }
            }
            _ => {}
        }
    }
    Some(frames)
}

impl Frames {
    /// Takes in the size in the header of a VP8 key frame (RFC 6386, 9.1).
    fn hold(&mut self, data: &[u8]) {
        if let &[_, _, _, 0x9d, 0x01, 0x2a, a, b, c, d, ..] = data {
            self.size.0 = self.size.0.max(little_endian(&[a, b & 0x3f]));
            self.size.1 = self.size.1.max(little_endian(&[c, d & 0x3f]));
        }
    }
}
