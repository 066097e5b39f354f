"""Schemas of Kubernetes objects that come with other programs: those in a folder, and parts of some."""

import json


def schema(document, folder):
    """The schema of the object, in which a field that it does not know is a mistake."""
    if document["kind"] in PARTS:
        return PARTS[document["kind"]]
    for entry in json.loads((folder / "index.json").read_text()):
        if all(entry[it] == document[it] for it in ("apiVersion", "kind")):
            found = json.loads((folder / entry["file"]).read_text())
            # Istio's leave out what every object has.
            found["properties"].update(apiVersion={}, kind={}, metadata={"type": "object"})
            return closed(found)
    raise AssertionError(f"no schema of {document['apiVersion']} {document['kind']}")


def closed(node):
    """Kubernetes drops unknown fields without a word. Here they are mistakes."""
    if isinstance(node, list):
        return [closed(it) for it in node]
    if not isinstance(node, dict):
        return node
    made = {key: closed(value) for key, value in node.items()}
    open_ended = "additionalProperties" in made or made.get("x-kubernetes-preserve-unknown-fields")
    if made.get("type") == "object" and "properties" in made and not open_ended:
        made["additionalProperties"] = False
    return made


def part(version, spec):
    """The schema of an object of which only this part of `spec` is used."""
    return closed({
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"const": version},
            "kind": {},
            "metadata": {"type": "object"},
            "spec": spec,
        },
    })


def fields(*required, **properties):
    return {"type": "object", "required": required, "properties": properties}


def each(items):
    return {"type": "array", "minItems": 1, "items": items}


TEXT = {"type": "string", "minLength": 1}
SWITCH = {"type": "boolean"}
ANYTHING = {"type": "object", "additionalProperties": True}
LENGTH = {"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"}
RELABELING = fields(
    sourceLabels=each(TEXT), targetLabel=TEXT, regex=TEXT, replacement={"type": "string"}, action=TEXT
)
ENDPOINT = fields(
    "port", port=TEXT, path=TEXT, interval=LENGTH,
    relabelings=each(RELABELING), metricRelabelings=each(RELABELING),
)
GATEWAY = "gateway.envoyproxy.io/v1alpha1"
MODULE = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"}
FILTER = {"type": "string", "pattern": r"^envoy\.filters\.http\.[a-z_]+$"}

# Of those of the Prometheus operator, cert-manager and Envoy Gateway (1.8 and later), what is used here.
PARTS = {
    "ServiceMonitor": part("monitoring.coreos.com/v1", fields(
        "endpoints", "selector",
        selector=fields("matchLabels", matchLabels=ANYTHING),
        endpoints=each(ENDPOINT),
    )),
    "PodMonitor": part("monitoring.coreos.com/v1", fields(
        "podMetricsEndpoints", "selector",
        selector=fields("matchLabels", matchLabels=ANYTHING),
        podMetricsEndpoints=each(ENDPOINT),
    )),
    "PrometheusRule": part("monitoring.coreos.com/v1", fields(
        "groups",
        groups=each(fields(
            "name", "rules", name=TEXT,
            rules=each(fields(
                "expr", alert=TEXT, record=TEXT, expr=TEXT, labels=ANYTHING, annotations=ANYTHING,
                **{"for": LENGTH},
            )),
        )),
    )),
    "Certificate": part("cert-manager.io/v1", fields(
        "secretName", "issuerRef", secretName=TEXT, dnsNames=each(TEXT),
        issuerRef=fields("name", kind=TEXT, name=TEXT),
    )),
    "EnvoyProxy": part(GATEWAY, fields(
        provider=fields(
            "type", type={"const": "Kubernetes"},
            kubernetes=fields(envoyDeployment=fields(
                pod=fields(volumes=each(ANYTHING)),
                container=fields(image=TEXT, env=each(ANYTHING), volumeMounts=each(ANYTHING)),
            )),
        ),
        dynamicModules=each(fields(
            "name", "source", name=MODULE, doNotClose=SWITCH, loadGlobally=SWITCH,
            source=fields(type={"const": "Local"}, local=fields("path", path=TEXT)),
        )),
        filterOrder=each(fields("name", name=FILTER, before=FILTER, after=FILTER)),
    )),
    "EnvoyExtensionPolicy": part(GATEWAY, fields(
        "targetRefs",
        targetRefs=each(fields("group", "kind", "name", group=TEXT, kind=TEXT, name=TEXT)),
        dynamicModule=each(fields(
            "name", name=MODULE, filterName={"type": "string"}, config={}, terminalFilter=SWITCH,
        )),
    )),
}
