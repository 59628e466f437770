//! A worker's pod, the same for every kind of work, as the `restricted` Pod Security Standard asks for it; and when a
//! Job replaces one.
//!
//! A worker that is told to leave (SIGTERM: a drained node, a preemption, a smaller Job) hands its work back and exits
//! with 143. That is no failure, and nothing counts it; a wrong command line (2) fails everywhere, so the Job ends at once.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector,
    PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements,
    SeccompProfile, SecretEnvSource, SecurityContext, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use quern_recipes::{ModelsVolume, TaintEffect, TolerationOperator};

use crate::commands::k8s::access;
use crate::commands::k8s::render::Run;

/// The container's name in every worker's pod.
const CONTAINER: &str = "worker";
/// Exit code of a worker that was told to leave.
const LEFT: i32 = 143;
/// Exit code of a wrong command line.
const BAD_USAGE: i32 = 2;
/// How often one place among a Job's pods is filled again after failures.
const RETRIES: i32 = 5;
/// How long a worker may take to hand its work back: in CapFilt a step of a batch, in training a checkpoint.
const GRACE_S: i64 = 300;
/// The user of the images.
const USER: i64 = 65532;
/// The one folder that a worker may write to: models that it fetches, and temporary files.
const SCRATCH: &str = "/tmp";

/// Labels of everything that belongs to a run's workers; `k8s/base`'s network policies know them.
pub fn labels(run: &Run) -> BTreeMap<String, String> {
    texts(&[
        ("app.kubernetes.io/name", "quern"),
        ("app.kubernetes.io/component", "worker"),
        ("app.kubernetes.io/instance", &run.name),
        ("app.kubernetes.io/managed-by", "quern"),
    ])
}

/// Name, namespace and labels of a run's resource.
pub fn metadata(run: &Run, suffix: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(format!("{}-{suffix}", run.name)),
        namespace: Some(run.kubernetes.namespace.clone()),
        labels: Some(labels(run)),
        ..ObjectMeta::default()
    }
}

/// `count` workers side by side, each of which is replaced when it leaves, and [`RETRIES`] times when it fails.
pub fn side_by_side(run: &Run, count: u32) -> JobSpec {
    let count = i32::try_from(count).expect("a recipe asks for no billions of workers");
    JobSpec {
        completion_mode: Some("Indexed".into()),
        parallelism: Some(count),
        completions: Some(count),
        backoff_limit_per_index: Some(RETRIES),
        pod_failure_policy: Some(PodFailurePolicy {
            rules: vec![disrupted(), on_exit("Ignore", LEFT), on_exit("FailJob", BAD_USAGE)],
        }),
        pod_replacement_policy: Some("Failed".into()),
        template: template(run),
        ..JobSpec::default()
    }
}

fn disrupted() -> PodFailurePolicyRule {
    let status = "True".to_owned();
    let condition = PodFailurePolicyOnPodConditionsPattern { type_: "DisruptionTarget".into(), status };
    PodFailurePolicyRule { action: "Ignore".into(), on_pod_conditions: Some(vec![condition]), on_exit_codes: None }
}

fn on_exit(action: &str, code: i32) -> PodFailurePolicyRule {
    let requirement = PodFailurePolicyOnExitCodesRequirement {
        container_name: Some(CONTAINER.into()),
        operator: "In".into(),
        values: vec![code],
    };
    PodFailurePolicyRule { action: action.into(), on_exit_codes: Some(requirement), on_pod_conditions: None }
}

fn template(run: &Run) -> PodTemplateSpec {
    let kubernetes = run.kubernetes;
    let selector = (!kubernetes.node_selector.is_empty()).then(|| kubernetes.node_selector.clone());
    let tolerations: Vec<Toleration> = kubernetes.tolerations.iter().map(toleration).collect();
    let scratch =
        Volume { name: "scratch".into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() };
    let spec = PodSpec {
        service_account_name: Some(kubernetes.service_account.clone()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        restart_policy: Some("Never".into()),
        termination_grace_period_seconds: Some(GRACE_S),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        node_selector: selector,
        tolerations: (!tolerations.is_empty()).then_some(tolerations),
        containers: vec![container(run)],
        volumes: Some(
            std::iter::once(scratch)
                .chain(kubernetes.models.as_ref().map(models))
                .chain(kubernetes.access.as_ref().map(access::volume))
                .collect(),
        ),
        ..PodSpec::default()
    };
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels(run)), ..ObjectMeta::default() }),
        spec: Some(spec),
    }
}

fn container(run: &Run) -> Container {
    let kubernetes = run.kubernetes;
    let scheme = if kubernetes.access.is_some() { "https" } else { "http" };
    let service = || format!("{scheme}://quern.{}.svc:7077", kubernetes.namespace);
    let coordinator = kubernetes.coordinator.clone().unwrap_or_else(service);
    // A worker that is to have a GPU must not go on without.
    let device = if kubernetes.resources.gpus == 0 { "cpu" } else { "cuda:0" };
    let arguments =
        ["run", "--coordinator", &coordinator, "--device", device, "--name", "$(POD_NAME)", "--host", "$(POD_IP)"];
    let secrets: Vec<EnvFromSource> = kubernetes.secrets.iter().map(|name| secret(name)).collect();
    let scratch = VolumeMount { name: "scratch".into(), mount_path: SCRATCH.into(), ..VolumeMount::default() };
    let models = kubernetes.models.as_ref().map(|models| VolumeMount {
        name: "models".into(),
        mount_path: models.path.clone(),
        read_only: Some(true),
        ..VolumeMount::default()
    });
    Container {
        name: CONTAINER.into(),
        image: Some(kubernetes.image.clone()),
        command: Some(vec!["quern-worker".into()]),
        args: Some(arguments.map(str::to_owned).to_vec()),
        env: Some(
            [
                of_the_pod("POD_NAME", "metadata.name"),
                of_the_pod("POD_IP", "status.podIP"),
                EnvVar { name: "HOME".into(), value: Some(SCRATCH.into()), value_from: None },
            ]
            .into_iter()
            .chain(kubernetes.access.iter().flat_map(access::environment))
            .collect(),
        ),
        env_from: (!secrets.is_empty()).then_some(secrets),
        resources: Some(resources(run)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(
            std::iter::once(scratch).chain(models).chain(kubernetes.access.as_ref().map(|_| access::mount())).collect(),
        ),
        ..Container::default()
    }
}

/// Requests are limits: a worker that is promised less than it uses is the first to be evicted.
fn resources(run: &Run) -> ResourceRequirements {
    let wanted = &run.kubernetes.resources;
    let mut amounts = texts(&[("cpu", &wanted.cpu), ("memory", &wanted.memory)]);
    if wanted.gpus > 0 {
        amounts.insert("nvidia.com/gpu".into(), wanted.gpus.to_string());
    }
    let amounts: BTreeMap<String, Quantity> = amounts.into_iter().map(|(name, text)| (name, Quantity(text))).collect();
    ResourceRequirements { requests: Some(amounts.clone()), limits: Some(amounts), claims: None }
}

fn of_the_pod(name: &str, field: &str) -> EnvVar {
    let field_ref = ObjectFieldSelector { field_path: field.into(), api_version: None };
    let source = EnvVarSource { field_ref: Some(field_ref), ..EnvVarSource::default() };
    EnvVar { name: name.into(), value: None, value_from: Some(source) }
}

fn secret(name: &str) -> EnvFromSource {
    let source = SecretEnvSource { name: name.into(), optional: Some(false) };
    EnvFromSource { secret_ref: Some(source), ..EnvFromSource::default() }
}

fn models(models: &ModelsVolume) -> Volume {
    let claim = PersistentVolumeClaimVolumeSource { claim_name: models.claim.clone(), read_only: Some(true) };
    Volume { name: "models".into(), persistent_volume_claim: Some(claim), ..Volume::default() }
}

fn toleration(toleration: &quern_recipes::Toleration) -> Toleration {
    let operator = match toleration.operator {
        TolerationOperator::Equal => "Equal",
        TolerationOperator::Exists => "Exists",
    };
    let effect = toleration.effect.map(|effect| match effect {
        TaintEffect::NoSchedule => "NoSchedule",
        TaintEffect::PreferNoSchedule => "PreferNoSchedule",
        TaintEffect::NoExecute => "NoExecute",
    });
    Toleration {
        key: toleration.key.clone(),
        operator: Some(operator.into()),
        value: toleration.value.clone(),
        effect: effect.map(str::to_owned),
        toleration_seconds: None,
    }
}

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
