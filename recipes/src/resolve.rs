//! Relative paths made absolute, against the folder of the recipe's file; URLs are left as they are.

use std::path::{Component, Path, PathBuf};

use crate::inputs::Images;
use crate::recipe::Recipe;

impl Recipe {
    /// The same recipe with every relative path made absolute against `folder`, which is absolute itself.
    pub fn resolve(&self, folder: &Path) -> Recipe {
        let mut recipe = self.clone();
        let absolute = |path: &mut String| *path = join(folder, path);
        absolute(&mut recipe.output);
        recipe.captions.iter_mut().for_each(absolute);
        for dataset in &mut recipe.datasets {
            absolute(&mut dataset.path);
            if let Images::Paths(base) = &mut dataset.images {
                absolute(base);
            }
        }
        if let Some(capfilt) = &mut recipe.capfilt {
            absolute(&mut capfilt.captioner);
            absolute(&mut capfilt.ranker);
        }
        if let Some(stage1) = &mut recipe.stage1 {
            absolute(&mut stage1.image_encoder);
            absolute(&mut stage1.tokenizer);
            stage1.init.iter_mut().for_each(absolute);
        }
        if let Some(stage2) = &mut recipe.stage2 {
            absolute(&mut stage2.language_model);
            stage2.qformer.iter_mut().chain(&mut stage2.image_encoder).for_each(absolute);
        }
        if let Some(evaluation) = &mut recipe.evaluation {
            evaluation.datasets_mut().for_each(absolute);
        }
        recipe
    }
}

/// Whether `path` has a scheme, such as `s3://` or `file://`.
pub(crate) fn is_url(path: &str) -> bool {
    path.split_once("://")
        .is_some_and(|(scheme, _)| !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric()))
}

/// Whether `inner` is `outer` or lies below it, both as written in one recipe.
pub(crate) fn lies_within(inner: &str, outer: &str) -> bool {
    if is_url(inner) || is_url(outer) {
        let outer = outer.trim_end_matches('/');
        return inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    }
    clean(Path::new(inner)).starts_with(clean(Path::new(outer)))
}

fn join(folder: &Path, path: &str) -> String {
    if is_url(path) {
        return path.to_string();
    }
    clean(&folder.join(path)).display().to_string()
}

/// Takes out `.` and, where a name stands before it, `..`.
fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        let names_before = matches!(cleaned.components().next_back(), Some(Component::Normal(_)));
        match component {
            Component::CurDir => {}
            Component::ParentDir if names_before => {
                cleaned.pop();
            }
            other => cleaned.push(other),
        }
    }
    cleaned
}
