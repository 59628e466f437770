//! Training's workers: a JobSet with one Job that has a pod per rank.
//!
//! The coordinator forms the world, and forms it again when a rank is lost; the pod that replaces it joins then. So the
//! JobSet makes all of them anew only when one rank has failed for good.

use k8s_openapi::api::batch::v1::{JobSpec, JobTemplateSpec};

use crate::commands::k8s::jobset::{
    FailurePolicy, FailurePolicyRule, JobSet, JobSetSpec, Network, ReplicatedJob, StartupPolicy, SuccessPolicy,
};
use crate::commands::k8s::pod::{metadata, side_by_side};
use crate::commands::k8s::render::Run;

/// The Job's name in the set.
const RANKS: &str = "ranks";
/// How often the whole gang is made anew.
const MAX_RESTARTS: u32 = 3;

/// A gang of `ranks` workers.
pub fn of(run: &Run, ranks: u32) -> JobSet {
    // Without one rank the others only wait: the first that fails for good ends the Job.
    let job = JobSpec { max_failed_indexes: Some(0), ..side_by_side(run, ranks) };
    let spec = JobSetSpec {
        network: Network { enable_dns_hostnames: true, publish_not_ready_addresses: true },
        success_policy: SuccessPolicy { operator: "All", target_replicated_jobs: vec![RANKS.into()] },
        failure_policy: FailurePolicy {
            max_restarts: MAX_RESTARTS,
            // What the Job's own policy ends is a wrong command line, which no restart mends.
            rules: vec![FailurePolicyRule {
                name: "badUsage",
                action: "FailJobSet",
                on_job_failure_reasons: vec!["PodFailurePolicy"],
            }],
        },
        startup_policy: StartupPolicy { startup_policy_order: "AnyOrder" },
        replicated_jobs: vec![ReplicatedJob {
            name: RANKS.into(),
            replicas: 1,
            template: JobTemplateSpec { metadata: None, spec: Some(job) },
        }],
    };
    JobSet::new(metadata(run, "train"), spec)
}
