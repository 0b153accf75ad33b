"""What `kubectl apply -k` would send to a cluster: built by kubectl, held to the schemas and to our own rules."""

import ipaddress
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from os.path import relpath
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import msgspec
import pytest
import yaml
from kubernetes_validate import utils

from ingress import __version__, metrics
from ingress.app import OPERATIONS, ROUTES
from ingress.calls.egress import _DENIED, Egress
from ingress.console.routing import PREFIX as CONSOLE
from ingress.doctor.environment import insecure
from ingress.server import WATCHDOG_S
from ingress.settings import Settings, load, variable
from ingress.web.openapi import walk

from .crds import KINDS
from .pod_rules import Object, violations

K8S = Path(__file__).parent.parent.parent / "k8s"
KUBECTL = Path(sys.executable).parent / "kubectl"
# The oldest release that has all of it (the sleep of preStop), and the newest that the validator knows.
RELEASES = ("1.30", "1.37")
# Components that no overlay has, built on the base together.
ALTERNATIVES = ("ingress", "autoscaling-cpu", "canary")
BUILDS = ("small", "large", "alternatives")
# `kubectl apply` keeps each object in an annotation, too, and this is what all annotations may have.
MAX_BYTES = 262_144
SECRETS = {"whatsapp-ingress", "whatsapp-ingress-owner"}
CERTIFICATES = "whatsapp-ingress-ca"
# A Deployment, and the Secret with its key, which an operator makes once the service is there.
CANARY = "whatsapp-ingress-canary"

# It would read its file again for each object.
utils.schema_contents = cache(utils.schema_contents)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Object]]:
    """The objects of each of BUILDS."""
    folder = tmp_path_factory.mktemp("alternatives").resolve()
    up = relpath(K8S, folder)
    shutil.copy(K8S / "overlays/small/site.yaml", folder)
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "whatsapp-ingress",
        "resources": [f"{up}/base", "site.yaml"],
        "components": [f"{up}/components/{name}" for name in ALTERNATIVES],
        "images": [{"name": "whatsapp-ingress", "newTag": __version__}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return {
        "small": build(K8S / "overlays/small"),
        "large": build(K8S / "overlays/large"),
        "alternatives": build(folder),
    }


def build(folder: Path) -> list[Object]:
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(params=BUILDS)
def objects(request: pytest.FixtureRequest, built: dict[str, list[Object]]) -> list[Object]:
    return built[request.param]


def of(objects: list[Object], kind: str) -> list[Object]:
    return [item for item in objects if item["kind"] == kind]


def the(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = [item for item in of(objects, kind) if item["metadata"]["name"] == name]
    return found


def pods(objects: list[Object]) -> dict[str, Object]:
    """The specs of pods by the names of what makes them."""
    return {
        f"{item['kind']}/{item['metadata']['name']}": item["spec"]["template"]["spec"]
        for item in objects
        if "template" in item.get("spec", {})
    }


# ---------------------------------------------------------------- schemas


def errors(item: Object, release: str) -> list[str]:
    """What the schemas of Kubernetes, or of the custom resource, say against *item*."""
    try:
        kubernetes_validate.validate(item, release, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        schema = jsonschema.Draft202012Validator(KINDS[item["kind"]])
        return [f"{error.json_path}: {error.message}" for error in schema.iter_errors(item)]
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    return []


@pytest.mark.parametrize("release", RELEASES)
def test_every_object_is_as_its_schema_has_it(objects: list[Object], release: str) -> None:
    assert {item["metadata"]["name"]: found for item in objects if (found := errors(item, release))} == {}


@pytest.mark.parametrize(
    ("kind", "plant"),
    [
        ("Deployment", lambda spec: spec.update(replica=3)),
        ("Deployment", lambda spec: spec["template"]["spec"].update(terminationGracePeriodSeconds="55")),
        ("NetworkPolicy", lambda spec: spec.update(podselector={})),
        ("HTTPRoute", lambda spec: spec["rules"][0].update(backends=[])),
        ("HTTPRoute", lambda spec: spec["rules"][0]["matches"][0]["path"].update(value="webhooks")),
        ("ServiceMonitor", lambda spec: spec["endpoints"][0].update(interval="15 s")),
        ("ScaledObject", lambda spec: spec["triggers"][0]["metadata"].update(value=70)),
    ],
)
def test_a_mistake_is_found(built: dict[str, list[Object]], kind: str, plant: Callable[[Object], None]) -> None:
    item = deepcopy(of(built["large"], kind)[0])
    plant(item["spec"])
    assert errors(item, RELEASES[-1])


def test_every_component_is_in_a_build() -> None:
    used = {*ALTERNATIVES}
    for name in ("small", "large"):
        overlay = yaml.safe_load((K8S / "overlays" / name / "kustomization.yaml").read_text())
        used |= {Path(path).name for path in overlay["components"]}
    there = {path.name for path in (K8S / "components").iterdir()}
    assert used == there
    document = (K8S.parent / "docs/deploying.md").read_text("utf-8")
    assert set(re.findall(r"^\| `([a-z-]+)` \|", document, re.MULTILINE)) == there


@pytest.mark.parametrize("path", sorted(K8S.rglob("*.yaml")), ids=lambda path: str(path.relative_to(K8S)))
def test_no_key_stands_twice(path: Path) -> None:
    """kubectl takes the last one without a word; other readers refuse the file."""
    for document in yaml.compose_all(path.read_text("utf-8")):
        nodes = [document]
        while nodes:
            node = nodes.pop()
            if isinstance(node, yaml.MappingNode):
                keys = [key.value for key, _ in node.value]
                assert len(keys) == len(set(keys)), node.start_mark
                nodes += [value for _, value in node.value]
            elif isinstance(node, yaml.SequenceNode):
                nodes += node.value


def test_objects_are_ours_and_small_enough(objects: list[Object]) -> None:
    for item in objects:
        name, namespace = item["metadata"]["name"], item["metadata"].get("namespace")
        assert name.startswith("whatsapp-ingress"), name
        assert namespace == "whatsapp-ingress" or item["kind"] == "Namespace", name
        assert len(json.dumps(item)) < MAX_BYTES, name
        assert "site" not in re.split(r"[^\w]", json.dumps(item)), f"{name} has a value that no overlay has set"


# ---------------------------------------------------------------- pods


def test_every_pod_keeps_to_the_rules(objects: list[Object]) -> None:
    found = pods(objects)
    assert found.keys() - {"Deployment/whatsapp-ingress-canary"} == {
        "Deployment/whatsapp-ingress",
        "Job/whatsapp-ingress-migrate",
        "Job/whatsapp-ingress-migrate-post",
    }
    assert {name: wrong for name, pod in found.items() if (wrong := list(violations(pod)))} == {}


@pytest.mark.parametrize(
    ("plant", "violation"),
    [
        (lambda pod: pod.pop("automountServiceAccountToken"), "token"),
        (lambda pod: pod.pop("enableServiceLinks"), "Services"),
        (lambda pod: pod["securityContext"].update(runAsNonRoot=False), "root"),
        (lambda pod: pod["securityContext"].update(runAsUser=1000), "node may know"),
        (lambda pod: pod["securityContext"].pop("seccompProfile"), "system call"),
        (lambda pod: pod.update(hostNetwork=True), "namespace of the node"),
        (lambda pod: pod["volumes"].append({"name": "logs", "hostPath": {"path": "/var/log"}}), "mounts logs"),
        (lambda pod: pod["volumes"][0].update(emptyDir={}), "64 MiB"),
        (lambda pod: pod.update(initContainers=[{"name": "more", "image": "busybox"}]), "more: may write"),
        (lambda pod: pod["containers"][0]["securityContext"].update(privileged=True), "overrides"),
        (lambda pod: pod["containers"][0]["securityContext"].pop("capabilities"), "capabilities"),
        (lambda pod: pod["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"), "more rights"),
        (lambda pod: pod["containers"][0]["ports"][0].update(hostPort=80), "port of the node"),
        (lambda pod: pod["containers"][0]["volumeMounts"].pop(0), "no /tmp"),
        (lambda pod: pod["containers"][0]["volumeMounts"][1].pop("readOnly"), "what it mounts"),
        (lambda pod: pod["containers"][0].update(env=[{"name": "REDIS_URL", "value": "redis://"}]), "clear text"),
        (lambda pod: pod["containers"][0].update(image="registry.example.com:5000/whatsapp-ingress"), "release"),
        (lambda pod: pod["containers"][0]["resources"]["limits"].update(memory="1Gi"), "memory"),
        (lambda pod: pod["containers"][0]["resources"]["requests"].pop("cpu"), "CPU"),
    ],
)
def test_a_pod_that_does_not_is_found(
    built: dict[str, list[Object]], plant: Callable[[Object], object], violation: str
) -> None:
    pod = deepcopy(pods(built["large"])["Deployment/whatsapp-ingress"])
    plant(pod)
    assert any(violation in found for found in violations(pod))


def test_the_namespace_refuses_what_does_not(objects: list[Object]) -> None:
    labels = the(objects, "Namespace", "whatsapp-ingress")["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")} == {"restricted"}


def test_what_pods_refer_to_is_there(objects: list[Object]) -> None:
    there = {item["metadata"]["name"] for item in of(objects, "ConfigMap")}
    for name, pod in pods(objects).items():
        sources = pod["containers"][0]["envFrom"]
        assert {reference["name"] for source in sources for reference in source.values()} <= there | SECRETS | {CANARY}
        stores = [{"name": CERTIFICATES, "optional": True}] if not name.endswith(CANARY) else []
        assert [volume["configMap"] for volume in pod["volumes"] if "configMap" in volume] == stores


def test_images_are_of_this_release(objects: list[Object]) -> None:
    assert {pod["containers"][0]["image"].rpartition(":")[2] for pod in pods(objects).values()} == {__version__}


def test_probes_ask_on_the_port_that_no_route_leads_to(objects: list[Object]) -> None:
    (container,) = pods(objects)["Deployment/whatsapp-ingress"]["containers"]
    probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    assert {name: probe["httpGet"]["path"] for name, probe in probes.items()} == {
        "startup": "/healthz",
        "readiness": "/readyz",
        "liveness": "/healthz",
    }
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {"metrics"}
    assert {"/healthz", "/readyz"} <= {path for path, *_ in walk(OPERATIONS)}
    # It waits so long for a database, and ends by itself.
    assert probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"] > Settings().database_wait_s
    assert probes["readiness"]["periodSeconds"] * probes["readiness"]["failureThreshold"] <= 3


def test_a_pod_has_the_time_to_drain(objects: list[Object]) -> None:
    pod = pods(objects)["Deployment/whatsapp-ingress"]
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= before + WATCHDOG_S


def test_two_serve_while_nodes_are_drained(objects: list[Object]) -> None:
    budget = the(objects, "PodDisruptionBudget", "whatsapp-ingress")["spec"]
    deployment = the(objects, "Deployment", "whatsapp-ingress")["spec"]
    scaled = [*of(objects, "ScaledObject"), *of(objects, "HorizontalPodAutoscaler")]
    (least,) = [item["spec"].get("minReplicas") or item["spec"]["minReplicaCount"] for item in scaled] or [
        deployment["replicas"]
    ]
    # Two writers of one number: each apply would undo what the other has done.
    assert ("replicas" in deployment) == (not scaled)
    assert budget["minAvailable"] == 2 < least
    assert budget["selector"] == deployment["selector"]
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    spread = {item["topologyKey"] for item in deployment["template"]["spec"]["topologySpreadConstraints"]}
    assert spread == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}


# ---------------------------------------------------------------- settings


def values_of(file: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in file.read_text().splitlines() if line and not line.startswith("#"))


def templates() -> dict[str, dict[str, str]]:
    """What the template of each Secret has."""
    found = list(yaml.safe_load_all((K8S / "base/secrets.example.yaml").read_text()))
    assert [error for item in found for error in errors(item, RELEASES[-1])] == []
    return {item["metadata"]["name"]: item["stringData"] for item in found}


def test_every_setting_has_its_place() -> None:
    placed = [*values_of(K8S / "base/settings.env"), *(name for secret in templates().values() for name in secret)]
    assert sorted(placed) == sorted(variable(field) for field in Settings.__struct_fields__)
    assert templates().keys() == SECRETS
    assert [*templates()["whatsapp-ingress-owner"]] == ["DATABASE_OWNER_URL"]


def test_settings_have_their_defaults() -> None:
    found = load(values_of(K8S / "base/settings.env"))
    defaults = msgspec.to_builtins(Settings())
    assert {name: value for name, value in msgspec.to_builtins(found).items() if value != defaults[name]} == {
        "host": "0.0.0.0",
        "public_url": "https://hooks.example.com",
        "require_tls": True,
    }


def test_a_process_would_start_with_them(objects: list[Object]) -> None:
    (made,) = [item for item in of(objects, "ConfigMap") if "INGRESS_HOST" in item["data"]]
    settings = load(made["data"] | templates()["whatsapp-ingress"])
    assert insecure(settings, "database_url", "redis_url", "public_url") == []
    (container,) = pods(objects)["Deployment/whatsapp-ingress"]["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
        "http": settings.port,
        "metrics": settings.metrics_port,
    }
    assert urlsplit(settings.origin).hostname == next(iter(hosts(objects)), "hooks.example.com")


# ---------------------------------------------------------------- migrations


def test_the_first_half_of_a_migration_needs_nothing_but_secrets(objects: list[Object]) -> None:
    """So that it can run before all else, and only it knows the owner."""
    job = pods(objects)["Job/whatsapp-ingress-migrate"]["containers"][0]
    assert job["args"] == ["migrate"]
    assert job["envFrom"] == [{"secretRef": {"name": "whatsapp-ingress-owner"}}]
    assert "owner" not in json.dumps(pods(objects)["Deployment/whatsapp-ingress"])
    chosen = [item for item in objects if item["metadata"]["labels"].get("app.kubernetes.io/component") == "migration"]
    assert {item["kind"] for item in chosen} == {"Job"}


def test_the_second_half_waits_for_somebody(objects: list[Object]) -> None:
    job = the(objects, "Job", "whatsapp-ingress-migrate-post")
    assert job["spec"]["suspend"] is True
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["migrate", "--post"]


# ---------------------------------------------------------------- routes


def routes(objects: list[Object]) -> Iterator[tuple[str, str, str, int | str]]:
    """Host, path, Service and its port, of every route."""
    for item in of(objects, "HTTPRoute"):
        for rule in item["spec"]["rules"]:
            for match in rule["matches"]:
                assert match["path"]["type"] == "PathPrefix"
                for backend in rule["backendRefs"]:
                    for host in item["spec"]["hostnames"]:
                        yield host, match["path"]["value"], backend["name"], backend["port"]
    for item in of(objects, "Ingress"):
        assert "defaultBackend" not in item["spec"]
        for rule in item["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                service = path["backend"]["service"]
                assert path["pathType"] == "Prefix"
                yield rule["host"], path["path"], service["name"], next(iter(service["port"].values()))


def hosts(objects: list[Object]) -> dict[str, list[str]]:
    """The paths of each host; that of the hooks first."""
    found: dict[str, list[str]] = {}
    for host, path, *_ in routes(objects):
        found.setdefault(host, []).append(path)
    return dict(sorted(found.items(), key=lambda item: len(item[1])))


def test_no_route_reaches_metrics(objects: list[Object]) -> None:
    """Each leads to the public port, which has none."""
    services = {item["metadata"]["name"]: item["spec"] for item in of(objects, "Service")}
    led_to = {(service, port) for *_, service, port in routes(objects)}
    assert led_to
    for name, wanted in led_to:
        (port,) = [port for port in services[name]["ports"] if wanted in (port["name"], port["port"])]
        assert port["targetPort"] == "http"
    # Nor does one from outside of the cluster.
    assert {spec.get("type", "ClusterIP") for spec in services.values()} == {"ClusterIP"}
    assert not any(spec.get("externalIPs") for spec in services.values())
    assert "/metrics" not in {path for path, *_ in walk(ROUTES)}
    assert "/metrics" in {path for path, *_ in walk(OPERATIONS)}


def test_hooks_have_a_host_and_all_else_another(objects: list[Object]) -> None:
    hooks, api = hosts(objects).values()
    assert hooks == ["/webhooks"]

    def is_routed(path: str) -> bool:
        return any(path == prefix or path.startswith(prefix + "/") for prefix in api)

    served = {path for path, *_ in walk(ROUTES)} | {CONSOLE, f"{CONSOLE}/sign-in"}
    assert {path for path in served if not is_routed(path)} == {"/healthz", "/readyz"}
    assert not is_routed("/webhooks/meta_business/token")
    # None that nobody answers.
    assert [prefix for prefix in api if not any((path + "/").startswith(prefix + "/") for path in served)] == []


def test_services_lead_to_pods(objects: list[Object]) -> None:
    deployments = [item["spec"] for item in of(objects, "Deployment")]
    for service in of(objects, "Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        [deployment] = [spec for spec in deployments if spec["selector"] == selector]
        names = {port["name"] for port in deployment["template"]["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


# ---------------------------------------------------------------- networks


@pytest.fixture
def policies(built: dict[str, list[Object]]) -> dict[str, Object]:
    return {item["metadata"]["name"]: item["spec"] for item in of(built["small"], "NetworkPolicy")}


def test_what_is_not_named_is_denied(policies: dict[str, Object]) -> None:
    assert policies["whatsapp-ingress-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_each_port_is_reached_from_one_namespace(policies: dict[str, Object]) -> None:
    site = yaml.safe_load((K8S / "overlays/small/site.yaml").read_text())["data"]
    rules = [rule for policy in policies.values() for rule in policy.get("ingress", [])]
    assert rules == [
        {
            "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": site[namespace]}}}],
            "ports": [{"protocol": "TCP", "port": port}],
        }
        for namespace, port in (("gatewayPodsNamespace", "http"), ("monitoringNamespace", "metrics"))
    ]


def test_jobs_reach_the_database_and_names_alone(policies: dict[str, Object]) -> None:
    chosen = {
        name
        for name, policy in policies.items()
        if policy["podSelector"].get("matchLabels") == {"app.kubernetes.io/part-of": "whatsapp-ingress"}
    }
    assert chosen == {"whatsapp-ingress-database"}
    ports = {port["port"] for rule in policies["whatsapp-ingress-database"]["egress"] for port in rule["ports"]}
    assert ports == {53, 5432, 6432}


def test_the_internet_is_what_the_guard_lets_pass(policies: dict[str, Object]) -> None:
    """At both ends of every network that either of them knows."""
    blocks = [peer["ipBlock"] for peer in policies["whatsapp-ingress"]["egress"][-1]["to"]]
    excepted = [ipaddress.ip_network(text) for block in blocks for text in block["except"]]
    wide = [ipaddress.ip_network(block["cidr"]) for block in blocks]
    guard = Egress([])

    def is_let_out(address: Any) -> bool:
        return any(address in network for network in wide) and not any(address in network for network in excepted)

    known = [*excepted, *wide, *_DENIED, *(ipaddress.ip_network(text) for text in ("fc00::/7", "fe80::/10", "::/96"))]
    ends = {
        network[0] + offset
        for network in known
        for offset in (-1, 0, network.num_addresses - 1, network.num_addresses)
        if 0 <= int(network[0]) + offset < 2**network.max_prefixlen
    }
    assert [str(address) for address in ends if is_let_out(address) and not guard.allows(address)] == []
    # The registry has some single addresses in these that are global.
    narrower = [ipaddress.ip_network("192.0.0.0/24"), ipaddress.ip_network("2001::/23")]
    closed = {address for address in ends if guard.allows(address) and not is_let_out(address)}
    assert [str(address) for address in closed if not any(address in network for network in narrower)] == []
    assert all(is_let_out(ipaddress.ip_address(text)) for text in ("1.1.1.1", "157.240.1.1", "2a03:2880::1"))


# ---------------------------------------------------------------- autoscaling, monitoring


def test_the_number_of_processes_follows_what_is_counted(built: dict[str, list[Object]]) -> None:
    (scaled,) = of(built["large"], "ScaledObject")
    query = scaled["spec"]["triggers"][1]["metadata"]["query"]
    (pattern,) = re.findall(r'__name__=~"([^"]+)"', query)
    names = {family.name for family in metrics.REGISTRY.collect()}
    assert {name for name in names if re.fullmatch(pattern, name)} == {
        "whatsapp_ingress_ingest_queue_oldest_seconds",
        "whatsapp_ingress_ingest_unread_oldest_seconds",
    }
    plain = the(built["alternatives"], "HorizontalPodAutoscaler", "whatsapp-ingress")["spec"]
    assert plain["behavior"] == scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert plain["maxReplicas"] == scaled["spec"]["maxReplicaCount"]


def test_prometheus_finds_the_port(built: dict[str, list[Object]]) -> None:
    (monitor,) = of(built["large"], "ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (service,) = [item for item in of(built["large"], "Service") if wanted <= item["metadata"]["labels"].items()]
    assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} == {service["spec"]["ports"][0]["name"]}


def test_the_canary_is_taken_and_watched(built: dict[str, list[Object]]) -> None:
    """The service takes its webhooks where it runs, and nowhere else; its metrics are of the service's own job."""
    taken = {
        name: load(made["data"]).canary
        for name in BUILDS
        for made in of(built[name], "ConfigMap")
        if "INGRESS_CANARY" in made["data"]
    }
    assert taken == {"small": False, "large": False, "alternatives": True}
    (monitor,) = of(built["large"], "ServiceMonitor")
    service = the(built["alternatives"], "Service", f"{CANARY}-metrics")
    assert monitor["spec"]["selector"]["matchLabels"] == service["metadata"]["labels"]
    assert pods(built["alternatives"])[f"Deployment/{CANARY}"]["containers"][0]["args"] == ["canary"]


def test_prometheus_gets_the_alerts(built: dict[str, list[Object]]) -> None:
    (given,) = of(built["large"], "PrometheusRule")
    assert given["spec"] == yaml.safe_load((K8S / "components/monitoring/prometheus-rule.yaml").read_text())["spec"]


def test_grafana_gets_every_board(built: dict[str, list[Object]]) -> None:
    given = {
        name: json.loads(text)
        for item in of(built["large"], "ConfigMap")
        if item["metadata"]["labels"].get("grafana_dashboard") == "1"
        for name, text in item["data"].items()
    }
    boards = {
        path.name: json.loads(path.read_text()) for path in (K8S / "components/monitoring/dashboards").glob("*.json")
    }
    assert given == boards
