//! The samples of a tar file: members that follow each other and have one key.

use bytes::Bytes;

use super::members::{File, Files, TarError};
use super::window::Window;
use crate::store::{Folder, StoreError};

/// Members that are known of a sample: nobody writes so many, but each is compared with all before it.
const MAX_MEMBERS: usize = 1024;

/// A sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Its members' names up to the first dot after the last slash.
    pub key: String,
    /// In the file's order; of two with one extension the first, and of very many the first.
    pub members: Vec<Member>,
}

/// A member of a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// The rest of its name, in lower case.
    pub extension: String,
    start: u64,
    /// How long it is.
    pub bytes: u64,
}

impl Sample {
    /// The member with this extension.
    pub fn member(&self, extension: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.extension == extension)
    }
}

/// The samples of a tar file, one after the other.
#[derive(Debug)]
pub(crate) struct Samples {
    files: Files,
    /// The first member of the next sample.
    next: Option<(String, Member)>,
    is_over: bool,
}

impl Samples {
    /// The samples of the file `name` of so many bytes; nothing is read yet.
    ///
    /// # Errors
    /// When the name is none.
    pub fn open(folder: &Folder, name: &str, file_bytes: u64) -> Result<Self, StoreError> {
        let files = Files::new(Window::open(folder, name, file_bytes)?);
        Ok(Samples { files, next: None, is_over: false })
    }

    /// The next sample.
    pub async fn next(&mut self) -> Result<Option<Sample>, TarError> {
        let first = match self.next.take() {
            Some(first) => Some(first),
            None => self.next_member().await?,
        };
        let Some((key, member)) = first else { return Ok(None) };
        let mut sample = Sample { key, members: vec![member] };
        while let Some((key, member)) = self.next_member().await? {
            if key != sample.key {
                self.next = Some((key, member));
                break;
            }
            if sample.members.len() < MAX_MEMBERS && sample.member(&member.extension).is_none() {
                sample.members.push(member);
            }
        }
        Ok(Some(sample))
    }

    /// A member's content.
    pub async fn content(&mut self, member: &Member) -> Result<Bytes, StoreError> {
        self.files.window.read(member.start, member.bytes).await
    }

    async fn next_member(&mut self) -> Result<Option<(String, Member)>, TarError> {
        while !self.is_over {
            let Some(File { name, start, bytes }) = self.files.next().await? else {
                self.is_over = true;
                break;
            };
            if let Some((key, extension)) = split(&name) {
                return Ok(Some((key.to_owned(), Member { extension: extension.to_lowercase(), start, bytes })));
            }
        }
        Ok(None)
    }
}

/// Key and extension of a member's name; none for a name without one, and for hidden files.
fn split(name: &str) -> Option<(&str, &str)> {
    let name = name.strip_prefix("./").unwrap_or(name);
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = base + name[base..].find('.')?;
    (dot > base && dot + 1 < name.len()).then(|| (&name[..dot], &name[dot + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_key_and_an_extension() {
        for (name, wanted) in [
            ("000.jpg", Some(("000", "jpg"))),
            ("./a/b.c/000.seg.png", Some(("a/b.c/000", "seg.png"))),
            ("a.b/c", None),
            ("README", None),
            ("._000.jpg", None),
            ("a/.hidden", None),
            ("a/.hidden.jpg", None),
            ("000.", None),
            ("", None),
            ("é.jpg", Some(("é", "jpg"))),
        ] {
            assert_eq!(split(name), wanted, "{name}");
        }
    }
}
