#!/usr/bin/env python3
"""Validates everything that is for Kubernetes, strictly: what `quern k8s render` prints for several recipes, and the
files of k8s/base. Then shows that each manifest in broken/ is refused, for the reason in its first line.

usage: validate.py QUERN
"""

import pathlib
import subprocess
import sys

import yaml

import house
import schemas

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
BASE = ROOT / "k8s/base"
RECIPES = [
    *sorted((ROOT / "recipes").glob("*.yaml")),
    *sorted((HERE / "recipes").glob("*.yaml")),
    BASE / "recipe.yaml",
]
KUSTOMIZATION_KEYS = {"apiVersion", "kind", "namespace", "resources", "configMapGenerator", "images"}


class StrictLoader(yaml.SafeLoader):
    """YAML 1.1, as Kubernetes reads it, in which a repeated key is an error."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(keys) != len(set(keys)):
            raise yaml.constructor.ConstructorError(None, None, f"a key is repeated in {keys}", node.start_mark)
        return super().construct_mapping(node, deep)


def documents(text):
    return [document for document in yaml.load_all(text, StrictLoader) if document is not None]


def render(quern, recipe):
    ended = subprocess.run([quern, "k8s", "render", recipe], capture_output=True, text=True)
    if ended.returncode != 0:
        raise SystemExit(f"k8s: {recipe} is not rendered: {ended.stderr.strip()}")
    return documents(ended.stdout)


def expected_kinds(recipe):
    """What a recipe's sections ask for."""
    sections = yaml.safe_load(recipe.read_text())
    kinds = ["Job"] if sections.get("capfilt") else []
    return kinds + (["JobSet"] if sections.get("stage1") or sections.get("stage2") else [])


def everywhere(resources):
    """The refusals of resources, and of the pods they make."""
    found = []
    for resource in resources:
        name = f"{resource.get('kind')} {(resource.get('metadata') or {}).get('name')}"
        reasons = schemas.refusals(resource)
        if not reasons:
            reasons = [reason for _, _, pod in house.pods([resource]) for reason in house.unrestricted(pod)]
        found += [f"{name}: {reason}" for reason in reasons]
    return found


def read_base():
    """The base's resources, the ConfigMaps that it generates, and what is wrong with its kustomization."""
    kustomization = yaml.load((BASE / "kustomization.yaml").read_text(), StrictLoader)
    found = [f"kustomization.yaml: unknown field {key}" for key in kustomization.keys() - KUSTOMIZATION_KEYS]
    if (kustomization["apiVersion"], kustomization["kind"]) != (schemas.KUSTOMIZATION, "Kustomization"):
        found.append("kustomization.yaml: apiVersion and kind are not Kustomize's")
    generated = kustomization["configMapGenerator"]
    listed = kustomization["resources"] + [file for entry in generated for file in entry["files"]]
    there = {path.name for path in BASE.iterdir()} - {"kustomization.yaml"}
    found += [f"kustomization.yaml: there is no {name}" for name in set(listed) - there]
    found += [f"kustomization.yaml: {name} is not listed" for name in there - set(listed)]
    files = [BASE / name for name in kustomization["resources"] if name in there]
    resources = [resource for file in files for resource in documents(file.read_text())]
    for resource in resources:
        home = resource["metadata"].get("namespace", resource["metadata"]["name"])
        if home != kustomization["namespace"]:
            found.append(f"{resource['kind']} {resource['metadata']['name']} is in the namespace {home}")
    return resources, {entry["name"] for entry in generated}, found


def main(quern):
    base, config_maps, wrong = read_base()
    wrong += everywhere(base) or house.disagreements(base, config_maps)
    resources = len(base)
    for recipe in RECIPES:
        workers = render(quern, recipe)
        resources += len(workers)
        here = everywhere(workers)
        if [worker["kind"] for worker in workers] != expected_kinds(recipe):
            here.append(f"renders {[worker['kind'] for worker in workers]}, not {expected_kinds(recipe)}")
        if not here and recipe.parent != HERE / "recipes":
            here = house.misplaced(base, workers)
        wrong += [f"{recipe.relative_to(ROOT)}: {reason}" for reason in here]

    broken = sorted((HERE / "broken").glob("*.yaml"))
    for file in broken:
        text = file.read_text()
        expected = text.splitlines()[0].removeprefix("# refused: ")
        reasons = everywhere(documents(text))
        if not reasons or not all(expected in reason for reason in reasons):
            wrong.append(f"broken/{file.name}: should be refused with {expected!r} alone, but: {reasons or 'it passes'}")
    if len(broken) < 10:
        wrong.append(f"broken/ has only {len(broken)} manifests")

    for line in wrong:
        print(f"k8s: {line}", file=sys.stderr)
    print(
        f"k8s: {resources} resources of {len(RECIPES)} recipes and k8s/base for Kubernetes {', '.join(schemas.KUBERNETES)}; "
        f"{len(broken)} broken manifests; {len(wrong)} complaints"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
