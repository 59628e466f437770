//! Which images browsers show as they are.

/// The kind of image as its media type names it (`jpeg`, `png`, `webp`, `gif`), if browsers show it.
pub fn web_image_kind(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xff, 0xd8, 0xff, ..] => Some("jpeg"),
        [0x89, b'P', b'N', b'G', ..] => Some("png"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("webp"),
        [b'G', b'I', b'F', b'8', ..] => Some("gif"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_images_are_images() {
        assert_eq!(web_image_kind(b"\xff\xd8\xff\xe0"), Some("jpeg"));
        assert_eq!(web_image_kind(b"<svg onload=alert(1)>"), None);
    }
}
