"""What every pod in k8s/ keeps to: the restricted profile of Kubernetes, and more."""

from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]

# What a pod may have mounted: nothing of the node.
VOLUMES = {"emptyDir", "configMap", "secret"}
SECRET_NAMES = ("PASSWORD", "SECRET", "TOKEN", "_KEY", "_KEYS", "_URL")
MIN_UID = 10_001
TMP = {"medium": "Memory", "sizeLimit": "64Mi"}


def violations(pod: Object) -> Iterator[str]:
    """What is wrong with *pod*, the spec of one."""
    yield from _of_the_pod(pod)
    for container in containers_of(pod):
        for found in (*_of_a_container(container), *_of_its_resources(container)):
            yield f"{container['name']}: {found}"


def containers_of(pod: Object) -> list[Object]:
    return [*pod.get("initContainers", []), *pod["containers"], *pod.get("ephemeralContainers", [])]


def _of_the_pod(pod: Object) -> Iterator[str]:
    context = pod.get("securityContext", {})
    if pod.get("automountServiceAccountToken") is not False:
        yield "has a token of the service account"
    if pod.get("enableServiceLinks") is not False:
        yield "gets variables named after Services"
    if context.get("runAsNonRoot") is not True:
        yield "may be root"
    if min(context.get("runAsUser", 0), context.get("runAsGroup", 0)) < MIN_UID:
        yield "runs as somebody whom the node may know"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "may make any system call"
    if any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        yield "is in a namespace of the node"
    for volume in pod.get("volumes", []):
        if volume.keys() - {"name"} - VOLUMES:
            yield f"mounts {volume['name']}"
    if {volume.get("name"): volume.get("emptyDir") for volume in pod.get("volumes", [])}.get("tmp") != TMP:
        yield "has no /tmp of 64 MiB in memory"


def _of_a_container(container: Object) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False:
        yield "may get more rights"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "may write to its image"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "has capabilities"
    if context.keys() - {"allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"}:
        yield "overrides what the pod says"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "has a port of the node"
    if {"name": "tmp", "mountPath": "/tmp"} not in container.get("volumeMounts", []):
        yield "has no /tmp"
    if any(not mount.get("readOnly") for mount in container.get("volumeMounts", []) if mount["name"] != "tmp"):
        yield "may write to what it mounts"
    for variable in container.get("env", []):
        if "value" in variable and variable["name"].endswith(SECRET_NAMES):
            yield f"has {variable['name']} in clear text"
    if container["image"].rpartition("/")[2].partition(":")[2] in ("", "latest"):
        yield "is of no certain release"


def _of_its_resources(container: Object) -> Iterator[str]:
    requests = container.get("resources", {}).get("requests", {})
    limits = container.get("resources", {}).get("limits", {})
    if "memory" not in requests or requests.get("memory") != limits.get("memory"):
        yield "may be ended for memory that others use"
    if "cpu" not in requests:
        yield "asks for no CPU"
