"""What no schema states: that pods hold to the restricted Pod Security Standard, and that what names another resource,
by labels, name or port, finds it."""


def pods(resources):
    """(name, labels, spec) of every pod that the resources would make."""
    for resource in resources:
        spec = resource.get("spec") or {}
        templates = [spec["template"]] if "template" in spec else []
        templates += [job["template"]["spec"]["template"] for job in spec.get("replicatedJobs", [])]
        for template in templates:
            yield resource["metadata"]["name"], template["metadata"]["labels"], template["spec"]


VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "projected", "downwardAPI", "csi", "ephemeral"}


def unrestricted(spec):
    """Why a cluster that enforces `restricted` would refuse the pod; a line each."""
    context = spec.get("securityContext", {})
    containers = spec["containers"] + spec.get("initContainers", [])
    contexts = [container.get("securityContext", {}) for container in containers]
    rules = {
        "runAsNonRoot": context.get("runAsNonRoot") is True and context.get("runAsUser") != 0,
        "seccompProfile": context.get("seccompProfile", {}).get("type") == "RuntimeDefault",
        "host namespaces": not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")),
        "volumes": all(VOLUMES & volume.keys() for volume in spec.get("volumes", [])),
        "allowPrivilegeEscalation": all(c.get("allowPrivilegeEscalation") is False for c in contexts),
        "capabilities": all(c.get("capabilities") == {"drop": ["ALL"]} for c in contexts),
        "privileged": not any(c.get("privileged") for c in contexts),
        # Not of the standard, but of this house.
        "readOnlyRootFilesystem": all(c.get("readOnlyRootFilesystem") is True for c in contexts),
        "automountServiceAccountToken": spec.get("automountServiceAccountToken") is False,
    }
    return [f"the pod is not restricted: {rule}" for rule, holds in rules.items() if not holds]


def selects(selector, labels):
    return selector.items() <= labels.items()


def disagreements(base, config_maps):
    """Where the base's resources don't fit each other; a line each."""
    found = []
    named = {(resource["kind"], resource["metadata"]["name"]) for resource in base}

    def expect(holds, line):
        if not holds:
            found.append(line)

    for resource in base:
        spec, name = resource.get("spec", {}), f"{resource['kind']} {resource['metadata']['name']}"
        if resource["kind"] == "Service":
            targets = [pod for _, labels, pod in pods(base) if selects(spec["selector"], labels)]
            ports = {port["name"] for pod in targets for c in pod["containers"] for port in c.get("ports", [])}
            expect(targets, f"{name} selects no pod")
            expect(all(port["targetPort"] in ports for port in spec["ports"]), f"{name} names no port of its pods")
        elif resource["kind"] == "StatefulSet":
            labels = spec["template"]["metadata"]["labels"]
            expect(selects(spec["selector"]["matchLabels"], labels), f"{name} does not select its own pods")
            expect(("Service", spec["serviceName"]) in named, f"{name} has no Service {spec['serviceName']}")
            claims = {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
            found += unmounted(name, spec["template"]["spec"], claims)
            maps = {v["configMap"]["name"] for v in spec["template"]["spec"]["volumes"] if "configMap" in v}
            expect(maps <= config_maps, f"{name} mounts ConfigMaps that nothing makes: {sorted(maps - config_maps)}")
        elif resource["kind"] == "RoleBinding":
            expect(("Role", resource["roleRef"]["name"]) in named, f"{name} has no Role")
    return found + without_account(base, base)


def misplaced(base, workers):
    """Where a run's rendered workers don't fit into the base; a line each."""
    found = without_account(base, workers)
    for name, labels, pod in pods(workers):
        found += unmounted(name, pod)
        arguments = pod["containers"][0]["args"]
        host, port = arguments[arguments.index("--coordinator") + 1].split("://")[1].rsplit(":", 1)
        if not reaches(base, labels, host.split("."), int(port)):
            found.append(f"{name} can't reach the coordinator at {host}:{port}")
    return found


def without_account(base, resources):
    accounts = {resource["metadata"]["name"] for resource in base if resource["kind"] == "ServiceAccount"}
    wanted = [(name, pod["serviceAccountName"]) for name, _, pod in pods(resources)]
    return [f"{name} has no ServiceAccount {account}" for name, account in wanted if account not in accounts]


def unmounted(name, pod, claims=frozenset()):
    volumes = claims | {volume["name"] for volume in pod["volumes"]}
    mounts = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
    return [] if volumes == mounts else [f"{name} has the volumes {sorted(volumes)}, but mounts {sorted(mounts)}"]


def reaches(base, labels, host, port):
    """Whether a Service of the base has this address, and the policies of both ends let the pod through."""
    service = {"kind": "Service", "metadata": {"name": host[0], "namespace": host[1]}}
    services = [r for r in base if r["kind"] == "Service" and r["metadata"].items() >= service["metadata"].items()]
    if not services or port not in [entry["port"] for entry in services[0]["spec"]["ports"]]:
        return False
    targets = [target for _, target, _ in pods(base) if selects(services[0]["spec"]["selector"], target)]
    ways = [("ingress", "from", target, labels) for target in targets] + [("egress", "to", labels, t) for t in targets]
    return all(allowed(base, *way, port) for way in ways)


def allowed(base, direction, end, here, there, port):
    """Whether a policy for the pod `here` lets traffic with the pod `there` through at the port."""
    for policy in (r["spec"] for r in base if r["kind"] == "NetworkPolicy"):
        if not selects(policy["podSelector"].get("matchLabels", {}), here):
            continue
        for rule in policy.get(direction, []):
            peers = [peer["podSelector"]["matchLabels"] for peer in rule.get(end, [])]
            if any(selects(peer, there) for peer in peers) and port in [p["port"] for p in rule.get("ports", [])]:
                return True
    return False
