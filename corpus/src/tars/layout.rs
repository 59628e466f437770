//! Which members of a sample are its image and its caption.
//!
//! `columns.image` and `columns.caption` name extensions. Where they are usual ones, the others of their kind stand in; a
//! caption that is no member of its own is looked for in the member `json`, as img2dataset writes it.

use std::collections::BTreeSet;

use quern_recipes::Columns;

use super::samples::{Member, Sample};
use crate::columns::ColumnError;
use crate::plan::FoundColumn;

const IMAGES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];
const CAPTIONS: [&str; 3] = ["txt", "caption", "text"];
const JSON: &str = "json";
/// Extensions that an error names.
const NAMED_EXTENSIONS: usize = 12;

/// What is looked for in samples.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    images: Vec<String>,
    captions: Vec<String>,
}

/// The members that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    pub image: Option<&'a Member>,
    pub caption: Option<&'a Member>,
    /// Where the caption is if it has no member of its own.
    pub json: Option<&'a Member>,
}

impl Layout {
    pub fn new(columns: &Columns) -> Self {
        Layout { images: image_names(&columns.image), captions: alternatives(&columns.caption, &CAPTIONS) }
    }

    pub fn parts<'a>(&self, sample: &'a Sample) -> Parts<'a> {
        let first = |names: &[String]| names.iter().find_map(|name| sample.member(name));
        let caption = first(&self.captions);
        let json = if caption.is_none() { sample.member(JSON) } else { None };
        Parts { image: first(&self.images), caption, json }
    }

    /// The fields of the member `json` that may hold the caption.
    pub fn captions(&self) -> &[String] {
        &self.captions
    }

    /// Whether a member of this extension may be read.
    pub fn seeks(&self, extension: &str) -> bool {
        extension == JSON || self.images.iter().chain(&self.captions).any(|sought| sought == extension)
    }

    /// A tar file with these extensions in its samples must have an image and a caption somewhere.
    pub fn check(&self, columns: &Columns, extensions: &BTreeSet<String>) -> Result<(), ColumnError> {
        let any = |names: &[String]| names.iter().any(|name| extensions.contains(name));
        let missing = |role, name: &str| {
            let found: Vec<String> =
                extensions.iter().take(NAMED_EXTENSIONS).map(|extension| format!("`{extension}`")).collect();
            ColumnError::Missing { role, name: name.into(), found: found.join(", ") }
        };
        if !any(&self.images) {
            return Err(missing("image", &columns.image));
        }
        if !any(&self.captions) && !extensions.contains(JSON) {
            return Err(missing("caption", &columns.caption));
        }
        Ok(())
    }

    /// The members that are read of samples with these extensions, for people.
    pub fn found(&self, extensions: &BTreeSet<String>) -> Vec<FoundColumn> {
        let first = |names: &[String]| names.iter().find(|name| extensions.contains(*name)).cloned();
        let member = |role, name, holds: &str| FoundColumn { role, name, holds: holds.into() };
        let image = first(&self.images).map(|name| member("image", name, "a member of the sample"));
        let caption = match first(&self.captions) {
            Some(name) => Some(member("caption", name, "a member of the sample")),
            None => extensions.contains(JSON).then(|| member("caption", JSON.into(), "a field of the member")),
        };
        let key = member("key", "__key__".into(), "the sample's name");
        image.into_iter().chain(caption).chain([key]).collect()
    }
}

/// Extensions of an image that is called `name` in the recipe.
pub(crate) fn image_names(name: &str) -> Vec<String> {
    alternatives(name, &IMAGES)
}

fn alternatives(name: &str, usual: &[&str]) -> Vec<String> {
    let name = name.to_lowercase();
    let others = usual.iter().filter(|other| usual.contains(&name.as_str()) && **other != name);
    let others: Vec<String> = others.map(|other| (*other).to_owned()).collect();
    std::iter::once(name).chain(others).collect()
}

/// The caption in a `json`: the first of these fields that holds text.
pub(crate) fn caption_in_json(json: &[u8], fields: &[String]) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(json).ok()?;
    fields.iter().find_map(|field| Some(json.get(field)?.as_str()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_names_stand_in_for_each_other_and_others_for_nothing() {
        assert_eq!(alternatives("png", &IMAGES), ["png", "jpg", "jpeg", "webp"]);
        assert_eq!(alternatives("seg.PNG", &IMAGES), ["seg.png"]);
        assert_eq!(alternatives("caption", &CAPTIONS), ["caption", "txt", "text"]);
    }

    #[test]
    fn a_caption_is_found_in_json() {
        let fields = alternatives("caption", &CAPTIONS);
        let caption = |json: &str| caption_in_json(json.as_bytes(), &fields);
        assert_eq!(caption(r#"{"url": "u", "caption": "a dog", "text": "no"}"#).as_deref(), Some("a dog"));
        assert_eq!(caption(r#"{"caption": null, "text": "a cat"}"#).as_deref(), Some("a cat"));
        for none in [r#"{"caption": 3}"#, "{}", "[]", "no json", ""] {
            assert_eq!(caption(none), None, "{none}");
        }
    }
}
