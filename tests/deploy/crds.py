"""Of the custom resources in k8s/: the fields that we use, as their own definitions have them, and no others.

HTTPRoute: kubernetes-sigs/gateway-api, config/crd/standard/gateway.networking.k8s.io_httproutes.yaml (1.2 and newer).
ServiceMonitor, PrometheusRule: prometheus-operator/prometheus-operator,
example/prometheus-operator-crd/monitoring.coreos.com_{servicemonitors,prometheusrules}.yaml.
ScaledObject: keda.sh/docs/latest/reference/scaledobject-spec, and of its triggers scalers/cpu and scalers/prometheus.
"""

from typing import Any

Schema = dict[str, Any]

NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"}
TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
PROMETHEUS_DURATION = {
    "type": "string",
    "pattern": r"^(0|([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?)$",
}
COUNT = {"type": "integer", "minimum": 1}


def struct(*, needs: str = "", **fields: Schema) -> Schema:
    """An object with these *fields* at most; *needs* are those that it must have."""
    return {"type": "object", "properties": fields, "required": needs.split(), "additionalProperties": False}


def some(item: Schema, most: int = 1000) -> Schema:
    return {"type": "array", "items": item, "minItems": 1, "maxItems": most}


def kind(api: str, name: str, spec: Schema) -> Schema:
    metadata = struct(needs="name namespace", name=NAME, namespace=NAME, labels=TEXTS, annotations=TEXTS)
    return struct(
        needs="apiVersion kind metadata spec",
        apiVersion={"const": api},
        kind={"const": name},
        metadata=metadata,
        spec=spec,
    )


_PATH = struct(
    needs="type value",
    type={"enum": ["Exact", "PathPrefix"]},
    value={"type": "string", "maxLength": 1024, "pattern": r"^(/|(/[^/#?%\s.][^/#?%\s]*)+)$"},
)
_HEADER = struct(
    needs="name value",
    name={"type": "string", "pattern": r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$"},
    value={"type": "string", "minLength": 1, "maxLength": 4096},
)
_RULE = struct(
    needs="matches backendRefs",
    matches=some(struct(needs="path", path=_PATH), 64),
    filters=some(
        struct(
            needs="type responseHeaderModifier",
            type={"const": "ResponseHeaderModifier"},
            responseHeaderModifier=struct(set=some(_HEADER, 16)),
        ),
        16,
    ),
    timeouts=struct(request={"type": "string", "pattern": r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"}),
    backendRefs=some(
        struct(needs="name port", name=NAME, port={"type": "integer", "minimum": 1, "maximum": 65535}), 16
    ),
)
_SCALING = struct(
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
    policies=some(
        struct(
            needs="type value periodSeconds",
            type={"enum": ["Pods", "Percent"]},
            value=COUNT,
            periodSeconds=COUNT | {"maximum": 1800},
        )
    ),
)
_CPU = struct(
    needs="type metricType metadata",
    type={"const": "cpu"},
    metricType={"enum": ["Utilization", "AverageValue"]},
    metadata=struct(needs="value", value={"type": "string", "pattern": "^[0-9]+$"}),
)
_PROMETHEUS = struct(
    needs="type metadata",
    type={"const": "prometheus"},
    metricType={"enum": ["AverageValue", "Value"]},
    metadata=struct(
        needs="serverAddress query threshold",
        serverAddress={"type": "string", "pattern": "^https?://"},
        query=TEXT,
        threshold={"type": "string", "pattern": r"^[0-9.]+$"},
        ignoreNullValues={"enum": ["true", "false"]},
    ),
)
_ALERT = {"expr": TEXT, "labels": TEXTS}

KINDS = {
    "HTTPRoute": kind(
        "gateway.networking.k8s.io/v1",
        "HTTPRoute",
        struct(
            needs="parentRefs hostnames rules",
            parentRefs=some(struct(needs="name", name=NAME, namespace=NAME, sectionName=NAME), 32),
            hostnames=some(NAME, 16),
            rules=some(_RULE, 16),
        ),
    ),
    "ServiceMonitor": kind(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        struct(
            needs="selector endpoints",
            jobLabel=TEXT,
            selector=struct(matchLabels=TEXTS),
            endpoints=some(
                struct(
                    port=TEXT,
                    path={"type": "string", "pattern": "^/"},
                    interval=PROMETHEUS_DURATION,
                    scrapeTimeout=PROMETHEUS_DURATION,
                )
            ),
        ),
    ),
    "PrometheusRule": kind(
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        struct(
            needs="groups",
            groups=some(
                struct(
                    needs="name rules",
                    name=TEXT,
                    interval=PROMETHEUS_DURATION,
                    rules=some(
                        {
                            "oneOf": [
                                struct(needs="record expr", record=TEXT, **_ALERT),
                                struct(
                                    needs="alert expr",
                                    alert=TEXT,
                                    **_ALERT,
                                    **{"for": PROMETHEUS_DURATION, "keep_firing_for": PROMETHEUS_DURATION},
                                    annotations=TEXTS,
                                ),
                            ]
                        }
                    ),
                )
            ),
        ),
    ),
    "ScaledObject": kind(
        "keda.sh/v1alpha1",
        "ScaledObject",
        struct(
            needs="scaleTargetRef triggers",
            scaleTargetRef=struct(needs="name", name=NAME),
            minReplicaCount=COUNT,
            maxReplicaCount=COUNT,
            advanced=struct(
                horizontalPodAutoscalerConfig=struct(behavior=struct(scaleUp=_SCALING, scaleDown=_SCALING))
            ),
            triggers=some({"oneOf": [_CPU, _PROMETHEUS]}),
        ),
    ),
}
