//! What a worker's pod shows the coordinator: a Secret as files, which Kubernetes replaces in place when it changes.

use k8s_openapi::api::core::v1::{EnvVar, SecretVolumeSource, Volume, VolumeMount};
use quern_recipes::{ACCESS_PATH, WorkerAccess};

/// The volume's name in every worker's pod.
const NAME: &str = "access";
/// For the worker's group alone.
const MODE: i32 = 0o440;

/// The Secret as a volume.
pub fn volume(access: &WorkerAccess) -> Volume {
    let source = SecretVolumeSource {
        secret_name: Some(access.secret.clone()),
        default_mode: Some(MODE),
        ..SecretVolumeSource::default()
    };
    Volume { name: NAME.into(), secret: Some(source), ..Volume::default() }
}

/// Where it is.
pub fn mount() -> VolumeMount {
    VolumeMount { name: NAME.into(), mount_path: ACCESS_PATH.into(), read_only: Some(true), ..VolumeMount::default() }
}

/// What tells the worker so.
pub fn environment(access: &WorkerAccess) -> Vec<EnvVar> {
    let file = |variable: &str, key: &str| EnvVar {
        name: variable.into(),
        value: Some(format!("{ACCESS_PATH}/{key}")),
        value_from: None,
    };
    let mut variables = vec![file("QUERN_TOKEN_FILE", "token"), file("QUERN_CA", "ca.crt")];
    if access.mutual_tls {
        variables.extend([file("QUERN_CERT", "tls.crt"), file("QUERN_KEY", "tls.key")]);
    }
    variables
}
