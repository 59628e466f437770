//! The companion binary and what it finds: libtorch, CUDA, NCCL.

use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use super::{Finding, gib};
use crate::companion;

/// What `quern-worker doctor` prints, as JSON on one line.
#[derive(Debug, Default, Deserialize)]
struct Tensors {
    torch: Option<Library>,
    #[serde(default)]
    cuda_devices: Vec<CudaDevice>,
    nccl: Option<Library>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct CudaDevice {
    name: String,
    memory_bytes: u64,
}

#[derive(Debug, Deserialize)]
struct Library {
    path: String,
    version: String,
}

impl Library {
    fn found(&self, what: &'static str) -> Finding {
        Finding::good(what, format!("{} at {}", self.version, self.path))
    }
}

/// Asks the companion binary.
pub fn findings() -> Vec<Finding> {
    let worker = match companion::path() {
        Ok(worker) => worker,
        Err(missing) => return vec![Finding::missing("quern-worker", "not beside quern", missing.to_string())],
    };
    let mut findings = vec![Finding::good("quern-worker", worker.display().to_string())];
    match ask(&worker) {
        Ok(tensors) => findings.extend(judge(tensors)),
        Err(reason) => findings.push(Finding::missing(
            "libtorch",
            reason,
            "run `make setup` and `make build`; beside installed binaries libtorch belongs into lib/",
        )),
    }
    findings
}

/// Runs `quern-worker doctor`; a worker whose libtorch is not found does not even start.
fn ask(worker: &Path) -> Result<Tensors, String> {
    let output =
        Command::new(worker).arg("doctor").output().map_err(|error| format!("quern-worker does not start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.trim()).map_err(|_| {
        let error = String::from_utf8_lossy(&output.stderr);
        let first = error.lines().next().unwrap_or("it printed nothing");
        format!("quern-worker doctor ended with {}: {first}", output.status)
    })
}

fn judge(tensors: Tensors) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.push(match &tensors.torch {
        Some(torch) => torch.found("libtorch"),
        None => Finding::missing(
            "libtorch",
            tensors.error.clone().unwrap_or_else(|| "not found".into()),
            "run `make setup`, then `make build`",
        ),
    });
    if tensors.cuda_devices.is_empty() {
        let advice = match tensors.error {
            Some(error) if tensors.torch.is_some() => format!("{error}; everything works on the CPU, slowly"),
            _ => "everything works on the CPU, slowly; for GPUs install NVIDIA's driver".into(),
        };
        findings.push(Finding::absent("CUDA", "no device", advice));
    }
    for (index, device) in tensors.cuda_devices.iter().enumerate() {
        findings.push(Finding::good("CUDA", format!("cuda:{index} {}, {}", device.name, gib(device.memory_bytes))));
    }
    findings.push(match tensors.nccl {
        Some(nccl) => nccl.found("NCCL"),
        None => Finding::absent(
            "NCCL",
            "not found",
            "CPU ranks talk over TCP; for GPUs run `make setup`, which links the wheel's libnccl",
        ),
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::Verdict;

    fn verdicts(json: &str) -> Vec<(&'static str, Verdict, String)> {
        let tensors = serde_json::from_str(json).unwrap();
        judge(tensors).into_iter().map(|finding| (finding.what, finding.verdict, finding.found)).collect()
    }

    #[test]
    fn a_gpu_machine_is_described() {
        let found = verdicts(
            r#"{"torch": {"path": "/x/libtorch_cpu.so", "version": "2.11.0"}, "cuda_devices": [{"name": "NVIDIA H100", "memory_bytes": 85899345920}],
                "nccl": {"path": "/x/libnccl.so", "version": "2.28.9"}, "error": null}"#,
        );
        assert_eq!(found[0], ("libtorch", Verdict::Good, "2.11.0 at /x/libtorch_cpu.so".into()));
        assert_eq!(found[1], ("CUDA", Verdict::Good, "cuda:0 NVIDIA H100, 80.0 GiB".into()));
        assert_eq!(found[2], ("NCCL", Verdict::Good, "2.28.9 at /x/libnccl.so".into()));
    }

    #[test]
    fn a_bare_cpu_machine_needs_nothing_but_libtorch() {
        let torch = r#"{"path": "/x/libtorch_cpu.so", "version": "2.11.0"}"#;
        let found = verdicts(&format!(r#"{{"torch": {torch}, "cuda_devices": [], "nccl": null, "error": null}}"#));
        let all: Vec<_> = found.into_iter().map(|(what, verdict, _)| (what, verdict)).collect();
        assert_eq!(all, [("libtorch", Verdict::Good), ("CUDA", Verdict::Absent), ("NCCL", Verdict::Absent)]);
        let found = verdicts(r#"{"torch": null, "error": "libtorch_cpu.so: no such file"}"#);
        assert_eq!(found[0], ("libtorch", Verdict::Missing, "libtorch_cpu.so: no such file".into()));
    }
}
