"""What Kubernetes would say about a resource: every reason why it would be refused.

Core resources are checked with kubernetes-validate's strict schemas of several Kubernetes versions, JobSets with the
models of kubeflow-trainer-api, unknown fields forbidden, and the Jobs in them as core resources.
"""

import re

import kubernetes_validate
import pydantic
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

KUBERNETES = ("1.33", "1.35", "1.37")
JOBSET = "jobset.x-k8s.io/v1alpha2"
KUSTOMIZATION = "kustomize.config.k8s.io/v1beta1"
# The generated models take these only as objects of their own, where a resource has plain text or a number.
PLAIN = {
    "IoK8sApimachineryPkgApiResourceQuantity": (str, int, float),
    "IoK8sApimachineryPkgUtilIntstrIntOrString": (str, int),
}
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def refusals(resource):
    """Why the resource is refused, a line each; none if it is sound."""
    if not isinstance(resource, dict) or not {"apiVersion", "kind", "metadata"} <= resource.keys():
        return ["a resource has apiVersion, kind and metadata"]
    name = (resource["metadata"] or {}).get("name") or ""
    found = [] if LABEL.fullmatch(name) and len(name) <= 63 else [f"metadata.name: {name!r} is no DNS label"]
    return found + (of_jobset(resource) if resource["kind"] == "JobSet" else of_core(resource))


def of_core(resource):
    found = []
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"Kubernetes {version}: {error.json_path}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            found.append(error.message)
    # No schema states this: fields that an object may lack, but not the resource.
    if resource["kind"] in ("Job", "StatefulSet", "Service", "NetworkPolicy") and not resource.get("spec"):
        found.append("spec: is missing")
    return found


def of_jobset(resource):
    found = [] if resource["apiVersion"] == JOBSET else [f"apiVersion: is {resource['apiVersion']}, not {JOBSET}"]
    try:
        # The generated models would take unknown fields, and snake_case besides the resource's own names.
        JobsetV1alpha2JobSet.model_validate(resource, extra="forbid", by_alias=True, by_name=False)
    except pydantic.ValidationError as error:
        errors = [e for e in error.errors() if not is_plain(e)]
        if errors:
            return found + [f"JobSet: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in errors]
    jobs = (resource.get("spec") or {}).get("replicatedJobs") or []
    if not jobs:
        found.append("spec.replicatedJobs: is missing")
    for job in jobs:
        metadata = {"name": job["name"], **job["template"].get("metadata", {})}
        found += refusals({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": job["template"]["spec"]})
    return found


def is_plain(error):
    """Whether the models' complaint is only that a value is plain, as it must be."""
    return error["type"] == "model_type" and isinstance(error["input"], PLAIN.get(error["ctx"]["class_name"], ()))
