//! JobSet, as far as quern writes it: `jobset.x-k8s.io/v1alpha2` of <https://github.com/kubernetes-sigs/jobset>. Fields
//! carry the resource's own names.

use k8s_openapi::api::batch::v1::JobTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

/// Jobs that live and end together.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobSet {
    /// The resource's group and version.
    pub api_version: &'static str,
    /// The resource's kind.
    pub kind: &'static str,
    /// Name, namespace, labels.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: JobSetSpec,
}

impl JobSet {
    /// With the resource's group, version and kind.
    pub fn new(metadata: ObjectMeta, spec: JobSetSpec) -> Self {
        JobSet { api_version: "jobset.x-k8s.io/v1alpha2", kind: "JobSet", metadata, spec }
    }
}

/// What is wanted of a JobSet.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobSetSpec {
    /// How its pods find each other.
    pub network: Network,
    /// When it has succeeded.
    pub success_policy: SuccessPolicy,
    /// What the failure of a Job means.
    pub failure_policy: FailurePolicy,
    /// In which order Jobs start.
    pub startup_policy: StartupPolicy,
    /// The Jobs.
    pub replicated_jobs: Vec<ReplicatedJob>,
}

/// How pods find each other.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Whether each pod has a host name of its own.
    #[serde(rename = "enableDNSHostnames")]
    pub enable_dns_hostnames: bool,
    /// Whether a pod is found before it is ready.
    pub publish_not_ready_addresses: bool,
}

/// When a JobSet has succeeded.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SuccessPolicy {
    /// `All` or `Any`.
    pub operator: &'static str,
    /// Of which Jobs.
    pub target_replicated_jobs: Vec<String>,
}

/// What the failure of a Job means.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailurePolicy {
    /// How often all Jobs are made anew.
    pub max_restarts: u32,
    /// Exceptions, the first that fits.
    pub rules: Vec<FailurePolicyRule>,
}

/// What one sort of failure means.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailurePolicyRule {
    /// Its name, in events.
    pub name: &'static str,
    /// What happens.
    pub action: &'static str,
    /// Why the Job failed.
    pub on_job_failure_reasons: Vec<&'static str>,
}

/// In which order Jobs start.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StartupPolicy {
    /// `AnyOrder` or `InOrder`.
    pub startup_policy_order: &'static str,
}

/// A Job and how many of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicatedJob {
    /// Its part of the pods' names.
    pub name: String,
    /// How many of it.
    pub replicas: u32,
    /// The Job.
    pub template: JobTemplateSpec,
}
