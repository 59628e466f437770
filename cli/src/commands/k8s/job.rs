//! CapFilt's workers: an Indexed Job whose pods come and go one by one.

use k8s_openapi::api::batch::v1::Job;

use crate::commands::k8s::pod::{metadata, side_by_side};
use crate::commands::k8s::render::Run;

/// As many workers as the recipe asks for. A Job with as many completions as parallelism may be scaled while it runs, both
/// together; a place that fails for good leaves the others at work.
pub fn elastic(run: &Run) -> Job {
    Job {
        metadata: metadata(run, "capfilt"),
        spec: Some(side_by_side(run, run.kubernetes.capfilt_workers)),
        status: None,
    }
}
