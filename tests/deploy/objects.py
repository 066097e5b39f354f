#!/usr/bin/env python3
"""Checks the Kubernetes objects in deploy/, including those that the chart renders.

    objects.py CHECK KEYBOUND FILES [SCHEMAS]

CHECK is one of those at the end. KEYBOUND is the program, which judges configurations. FILES is a
folder with what Secrets and ConfigMaps would hold, by the name of the key. SCHEMAS is a folder with
the schemas of Istio's, Envoy Gateway's and the Gateway API's objects, and `index.json`.
"""

import copy
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import helm_python
import jsonschema
import kubernetes_validate
import yaml

from schemas import schema

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
CHART = DEPLOY / "helm/keybound"

# The oldest that the chart admits, and the newest that is known.
KUBERNETES = ("1.29", kubernetes_validate.latest_version())
# The groups that it knows of itself.
CORE = {"", "apps", "autoscaling", "networking.k8s.io", "policy"}

def manifests(_world, _schemas):
    """Every object of a kind that Kubernetes knows of itself is as its schema says."""
    check_written([it for it in written() if not is_foreign(it[1])], None, {"Deployment"})


def foreign_manifests(_world, schemas):
    """The same for those that come with Istio, Envoy Gateway and the Gateway API."""
    expect(schemas, "no schemas")
    kinds = {
        "AuthorizationPolicy", "BackendTLSPolicy", "ClientTrafficPolicy", "EnvoyExtensionPolicy",
        "EnvoyFilter", "EnvoyPatchPolicy", "EnvoyProxy", "Gateway", "HTTPRoute", "PeerAuthentication",
        "ReferenceGrant", "SecurityPolicy", "VirtualService",
    }
    check_written([it for it in written() if is_foreign(it[1])], schemas, kinds)


def check_written(documents, schemas, kinds):
    missing = kinds - {it["kind"] for _, it in documents}
    expect(not missing, f"there is no {missing}")
    for path, document in documents:
        validate(document, schemas, path)
        with_typo = copy.deepcopy(document)
        with_typo["spec"]["typo"] = True
        expect(refused(with_typo, schemas), f"{path}: {document['kind']} may have unknown fields")


def chart(world, schemas):
    """For every file of values there is, the chart renders what can be applied and run."""
    # Named as chart-testing looks for them.
    files = [*sorted((CHART / "ci").glob("*-values.yaml")), *sorted(DEPLOY.rglob("keybound-values.yaml"))]
    expect(8 <= len(files), f"{files}")
    expect(set((CHART / "ci").iterdir()) < set(files), f"{files}")
    for path in files:
        values = yaml.safe_load(path.read_text())
        report = helm_python.lint(CHART, values, strict=True, namespace="keybound")
        expect(not report["errors"], f"{path}: {report}")
        documents = render(values)
        for document in documents:
            validate(document, schemas, path)
        objects = by_kind(documents)
        holds_together(objects, path)
        is_confined(objects.get("Deployment") or objects.get("DaemonSet"), path)
        configuration_is_good(objects, world, path)


def lint(_world, _schemas):
    """As it is downloaded, without a value, the chart has no fault; but nothing of it is installed."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, helm_python.package(CHART, destination=folder))
        report = helm_python.lint(archive, {}, strict=True, namespace="keybound")
        expect(not report["errors"], f"{report}")


def switches(_world, _schemas):
    """What can be turned on and off is there, and is not."""
    least = yaml.safe_load((CHART / "ci/deployment-values.yaml").read_text())
    for edit, kinds in (
        ({}, "ConfigMap Deployment NetworkPolicy PodDisruptionBudget Service ServiceAccount"),
        ({"kind": "DaemonSet"}, "ConfigMap DaemonSet NetworkPolicy Service ServiceAccount"),
        (
            {
                "autoscaling": {"enabled": True}, "networkPolicy": {"enabled": False},
                "podDisruptionBudget": {"enabled": False}, "serviceMonitor": {"enabled": True},
            },
            "ConfigMap Deployment HorizontalPodAutoscaler Service ServiceAccount ServiceMonitor",
        ),
        (
            {
                "networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False},
                "podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True},
                "dashboard": {"enabled": True}, "serviceAccount": {"create": False},
            },
            "ConfigMap ConfigMap Deployment PodMonitor PrometheusRule Service",
        ),
    ):
        found = sorted(it["kind"] for it in render({**least, **edit}))
        expect(found == kinds.split(), f"{edit}: {found}")
    # Each listener has a port, a way to it and a fence, or none of them.
    socket = {"kind": "DaemonSet", "socket": {"hostPath": "/run/keybound"}}
    for edit, ports, sockets in (
        ({}, {"ext-authz": 9001}, {}),
        ({"forwardAuth": {"enabled": True}}, {"ext-authz": 9001, "forward-auth": 9002}, {}),
        (socket, {}, {"ext_authz"}),
        ({**socket, "forwardAuth": {"enabled": True}}, {}, {"ext_authz", "forward_auth"}),
    ):
        objects = {it["kind"]: it for it in render({**least, **edit})}
        workload = objects.get("Deployment") or objects["DaemonSet"]
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        found = {it["name"]: it["containerPort"] for it in container["ports"]}
        expect(found == {**ports, "admin": 9003}, f"{edit}: {found}")
        found = {it["targetPort"]: it["port"] for it in objects["Service"]["spec"]["ports"]}
        expect(found == {**ports, "admin": 9003}, f"{edit}: {found}")
        rules = objects["NetworkPolicy"]["spec"].get("ingress", [])
        expect([it["port"] for rule in rules for it in rule["ports"]] == list(ports), f"{edit}")
        listen = yaml.safe_load(objects["ConfigMap"]["data"]["keybound.yaml"])["listen"]
        expect(listen.pop("admin") == "0.0.0.0:9003", listen)
        expected = {f"unix:/run/keybound/{it}.sock" for it in sockets}
        expected |= {f"0.0.0.0:{it}" for it in ports.values()}
        expect(set(listen.values()) == expected, f"{edit}: {listen}")
        notes = templates({**least, **edit})[NOTES]
        expect(all(f"unix:/run/keybound/{it}.sock" in notes for it in sockets), f"{edit}: {notes}")
        expect(all(str(it) in notes for it in ports.values()), f"{edit}: {notes}")
    # Not only the one that the chart makes.
    for edit, account in (({}, "default"), ({"name": "checks"}, "checks")):
        deployment = by_kind(render({**least, "serviceAccount": {"create": False, **edit}}))["Deployment"]
        found = deployment["spec"]["template"]["spec"]["serviceAccountName"]
        expect(found == account, f"{edit}: {found}")
    for edit, name in (
        ({}, "keybound"), ({"fullnameOverride": "checks"}, "checks"), ({"nameOverride": "edge"}, "keybound-edge")
    ):
        found = {it["metadata"]["name"] for it in render({**least, **edit})}
        expect(found == {name}, f"{edit}: {found}")


def reloads(world, _schemas):
    """The pods are replaced for what keybound cannot reload, and for nothing else unless it is asked for."""
    least = yaml.safe_load((CHART / "ci/deployment-values.yaml").read_text())
    for always, edit, replaced in (
        (False, {}, False),
        (False, {"limits": {"token_bytes": 1024}}, False),
        (False, {"policies": [{"name": "api", "sender_constraint": "either"}]}, False),
        (False, {"telemetry": {"otlp": {"endpoint": "https://otel.example"}}}, True),
        (False, {"forward_auth": {"flavour": "nginx"}}, True),
        (False, {"listen": {"tls": {"certificate_file": "a", "key_file": "b"}}}, True),
        (True, {}, False),
        (True, {"limits": {"token_bytes": 1024}}, True),
    ):
        values = {**least, "restartOnChange": always, "replicaCount": 1}
        changed = {**values, "config": {**least["config"], **edit}}
        sums = [checksum(render(it)) for it in (values, changed)]
        expect((sums[0] != sums[1]) == replaced, f"{edit}: {replaced}")
        said = "replaces the pods" in templates(changed)[NOTES]
        expect(said == always, templates(changed)[NOTES])
    # keybound sees a change of the folder, as Kubernetes makes it, only where it is mounted as a whole.
    deployment = by_kind(render(least))["Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    expect(not any("subPath" in it for it in container["volumeMounts"]), container["volumeMounts"])


def pod(_world, _schemas):
    """The pod has the time that it needs to drain, and the user that is asked for or none."""
    least = yaml.safe_load((CHART / "ci/deployment-values.yaml").read_text())
    for drain, seconds in (
        ({}, 30),
        ({"delay": "20s", "deadline": "40s"}, 65),
        ({"delay": "500ms", "deadline": "1m"}, 66),
        ({"delay": "0s", "deadline": "1000ms"}, 6),
        ({"delay": "1001ms", "deadline": "90m"}, 5407),
    ):
        spec = by_kind(render({**least, "drain": drain}))["Deployment"]["spec"]["template"]["spec"]
        expect(spec["terminationGracePeriodSeconds"] == seconds, f"{drain}: {spec}")
    for edit, user in (
        ({}, {"runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532}),
        ({"runAsUser": 10001}, {"runAsUser": 10001, "runAsGroup": 65532, "fsGroup": 10001}),
        # As OpenShift wants it, which chooses them itself.
        ({"runAsUser": None}, {}),
    ):
        spec = by_kind(render({**least, **edit}))["Deployment"]["spec"]["template"]["spec"]
        others = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        expect(spec["securityContext"] == {**others, **user}, f"{edit}: {spec['securityContext']}")
    for edit, budget in (
        ({}, {"maxUnavailable": 1}),
        ({"maxUnavailable": 0}, {"maxUnavailable": 0}),
        ({"minAvailable": 2}, {"minAvailable": 2}),
        ({"minAvailable": "50%"}, {"minAvailable": "50%"}),
    ):
        spec = by_kind(render({**least, "podDisruptionBudget": edit}))["PodDisruptionBudget"]["spec"]
        spec.pop("selector")
        expect(spec == budget, f"{edit}: {spec}")
    # Without a selector a constraint would be for no pods at all.
    ours = {"matchLabels": {"app.kubernetes.io/name": "keybound", "app.kubernetes.io/instance": "keybound"}}
    zones = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    own = {"labelSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}
    for written, constraint in (
        (zones, {**zones, "labelSelector": ours}),
        ({**zones, **own}, {**zones, **own}),
    ):
        values = {**least, "topologySpreadConstraints": [zones, written]}
        spec = by_kind(render(values))["Deployment"]["spec"]["template"]["spec"]
        found = spec["topologySpreadConstraints"]
        expect(found == [{**zones, "labelSelector": ours}, constraint], f"{written}: {found}")


def monitoring(_world, _schemas):
    """The chart brings the very rules and the very dashboard of `deploy/observability` along, also when it
    is packaged; and Prometheus can reach what it is told to scrape."""
    least = yaml.safe_load((CHART / "ci/deployment-values.yaml").read_text())
    rules = yaml.safe_load((DEPLOY / "observability/alerts.yaml").read_text())
    dashboard = (DEPLOY / "observability/dashboard.json").read_text()
    values = {**least, "prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}}
    with tempfile.TemporaryDirectory() as folder:
        archive = helm_python.package(CHART, destination=folder)
        with helm_python.Chart.load_archive(Path(folder, archive).read_bytes()) as loaded:
            packaged = documents_of(loaded.render(values, name="keybound", namespace="keybound"))
    for documents in (render(values), packaged):
        objects = by_kind(documents)
        expect(objects["PrometheusRule"]["spec"] == rules, "the rules are others")
        expect(objects["Dashboard"]["data"] == {"keybound.json": dashboard}, "the dashboard is another")
    with_runbooks = {"enabled": True, "runbooks": "https://git.example/"}
    found = by_kind(render({**values, "prometheusRule": with_runbooks}))["PrometheusRule"]["spec"]
    found = [it["annotations"] for group in found["groups"] for it in group["rules"] if "alert" in it]
    expect(len(found) > 20, found)
    for annotations in found:
        start = "https://git.example/docs/alerts.md#keybound"
        expect(annotations["runbook_url"].startswith(start), annotations)
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    for monitor in ("serviceMonitor", "podMonitor"):
        policy = {**least["networkPolicy"], "monitors": [prometheus]}
        values = {**least, monitor: {"enabled": True}, "networkPolicy": policy}
        rules = by_kind(render(values))["NetworkPolicy"]["spec"]["ingress"]
        expect({"ports": [{"port": "admin"}], "from": [prometheus]} in rules, rules)


def warnings(_world, _schemas):
    """What is not wrong but not safe either is said at the end of an installation."""
    least = yaml.safe_load((CHART / "ci/deployment-values.yaml").read_text())
    def dpop(constraint, store):
        policies = [*least["config"]["policies"], {"name": "p", "sender_constraint": constraint}]
        return {**least["config"], "policies": policies, "dpop": {"replay": {"store": store}}}

    least["image"] = {"repository": "images.example.com/keybound"}
    digest = "sha256:" + "0" * 64
    for edit, warned in (
        ({}, []),
        ({"image": {"repository": "keybound"}}, ["registry"]),
        ({"image": {"repository": "keybound", "digest": digest}}, []),
        ({"networkPolicy": {"enabled": False}}, ["network policy"]),
        ({"config": dpop("dpop", "memory"), "replicaCount": 1}, []),
        ({"config": dpop("dpop", "memory"), "replicaCount": 2}, ["DPoP proofs"]),
        ({"config": dpop("either", "memory")}, ["DPoP proofs"]),
        ({"config": dpop("certificate", "memory")}, []),
        (
            {"config": dpop("dpop", "memory"), "replicaCount": 1, "autoscaling": {"enabled": True}},
            ["DPoP proofs"],
        ),
        ({"config": dpop("dpop", "memory"), "kind": "DaemonSet"}, ["DPoP proofs"]),
        ({"config": dpop("dpop", "redis"), "replicaCount": 2}, []),
    ):
        _, *found = templates({**least, **edit})[NOTES].split("WARNING: ")
        expect(len(found) == len(warned), f"{edit}: {found}")
        expect(all(word in it for word, it in zip(warned, found)), f"{edit}: {found}")


def refusals(_world, _schemas):
    """Values that cannot be meant are refused, and the complaint names them."""
    least = yaml.safe_load((CHART / "ci/deployment-values.yaml").read_text())
    render(least)
    issuers, policies = least["config"]["issuers"], least["config"]["policies"]
    proofs = {**least["config"], "policies": [{"name": "api", "sender_constraint": "dpop"}]}
    policy = least["networkPolicy"]
    for edit, complaint in (
        # What keybound would refuse at its start.
        ({"config": {**least["config"], "polices": []}}, "polices"),
        ({"config": {"issuers": [{**issuers[0], "audience": "a"}], "policies": policies}}, "audience"),
        ({"config": {"issuers": issuers, "policies": [{**policies[0], "sender_constraint": "mtls"}]}}, "sender_constraint"),
        ({"config": {**least["config"], "limits": {"check_deadline": 5}}}, "check_deadline"),
        ({"config": {**least["config"], "listen": {"tls": {"certificate": "a"}}}}, "certificate"),
        # Whether each replica may accept a stolen proof once, is to be said.
        ({"config": proofs}, "config.dpop.replay.store"),
        ({"config": {**proofs, "dpop": {}}}, "config.dpop.replay.store"),
        ({"config": proofs, "replicaCount": 1, "kind": "DaemonSet"}, "config.dpop.replay.store"),
        ({"serviceMonitor": {"enabled": True}}, "networkPolicy.monitors"),
        ({"podMonitor": {"enabled": True}}, "networkPolicy.monitors"),
        ({"networkPolicy": {**policy, "monitors": [{}]}}, "monitors"),
        ({"prometheusRule": {"enabled": True, "runbooks": "https://git.example"}}, "runbooks"),
        ({"runAsUser": 0}, "runAsUser"),
        ({"replicas": 2}, "replicaCount"),
        ({"drain": {"delay": None}}, "delay"),
        ({"readinessProbe": {"httpGet": {}}}, "httpGet"),
        ({"extraEnv": {"HTTPS_PROXY": "a"}}, "extraEnv"),
        # Without a word of whom to trust, the complaint shows how one is said.
        ({"config": {}}, "config: say whom to trust and what to demand, for example {issuers: [{issuer: "),
        ({"config": None}, "missing property 'config'"),
        ({"config": {"issuers": issuers}}, "missing property 'policies'"),
        ({"config": {"policies": policies}}, "missing property 'issuers'"),
        ({"config": {**least["config"], "policies": []}}, "policies"),
        ({"config": {**least["config"], "listen": {"admin": "0.0.0.0:1"}}}, "admin"),
        ({"config": {**least["config"], "listen": {"forward_auth": "[::]:1"}}}, "forward_auth"),
        ({"replica": 2}, "replica"),
        ({"replicaCount": "2"}, "replicaCount"),
        ({"kind": "StatefulSet"}, "kind"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"secrets": ["a b"]}, "secrets"),
        ({"networkPolicy": {"clients": []}}, "networkPolicy.clients"),
        ({"networkPolicy": {"clients": [{}]}}, "clients"),
        ({"socket": {"hostPath": "/run/keybound"}}, "socket.hostPath"),
        ({"socket": {"hostPath": "run"}}, "hostPath"),
        ({"kind": "DaemonSet", "autoscaling": {"enabled": True}}, "autoscaling"),
        ({"drain": {"delay": "5"}}, "delay"),
    ):
        try:
            render({**least, **edit})
        except helm_python.HelmError as error:
            expect(complaint in str(error), f"{edit}: {error}")
        else:
            fail(f"{edit} renders")


def providers(_world, _schemas):
    """Proxies ask the service that the chart makes, wait for longer than a check takes, and refuse
    when they get no answer."""
    documents = [it for _, it in written()]
    deadline = milliseconds("150ms")
    for path in DEPLOY.rglob("keybound-values.yaml"):
        limits = yaml.safe_load(path.read_text())["config"]["limits"]
        expect(milliseconds(limits["check_deadline"]) == deadline, path)

    lists = {
        "includeRequestHeadersInCheck":
            {"authorization", "dpop", "x-forwarded-client-cert", "x-forwarded-proto"},
        "headersToUpstreamOnAllow":
            {"authorization", "x-auth-subject", "x-auth-client-id", "x-auth-scope", "x-auth-issuer"},
        "headersToDownstreamOnAllow": {"dpop-nonce"},
        "headersToDownstreamOnDeny": {"www-authenticate", "dpop-nonce", "retry-after"},
    }
    for file, kind, port, needed in (
        ("istiod-values.yaml", "envoyExtAuthzGrpc", 9001, {}),
        ("over-http/istiod-values.yaml", "envoyExtAuthzHttp", 9002, lists),
    ):
        mesh = yaml.safe_load((DEPLOY / "istio" / file).read_text())["meshConfig"]
        expect(set(mesh) == {"extensionProviders", "pathNormalization"}, mesh)
        (provider,) = mesh["extensionProviders"]
        expect(set(provider) == {"name", kind}, provider)
        authorizer = provider[kind]
        said = {"service", "port", "timeout", "failOpen", "statusOnError"}
        expect(set(authorizer) == said | set(needed), authorizer)
        expect(authorizer["service"] == "keybound.keybound.svc.cluster.local", authorizer)
        expect(authorizer["port"] == port, authorizer)
        expect(deadline < milliseconds(authorizer["timeout"]), authorizer)
        expect(authorizer["failOpen"] is False and authorizer["statusOnError"] == "503", authorizer)
        for name, headers in needed.items():
            expect(headers <= set(authorizer[name]), f"{name}: {authorizer[name]}")
        expect(provider["name"] == "keybound", provider)
    custom = [it for it in documents if it.get("spec", {}).get("action") == "CUSTOM"]
    expect(len(custom) == 2, custom)
    for document in custom:
        expect(document["spec"]["provider"] == {"name": "keybound"}, document)
        # A rule that misses a request leaves it unchecked.
        expect(document["spec"]["rules"] == [{}], document)

    # The client's certificate: the gateway asks for it, and keybound counts the proxies behind it.
    gateway = "cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account"
    (server,) = [
        server for it in documents if it["apiVersion"].startswith("networking.istio.io/")
        for server in it["spec"].get("servers", [])
    ]
    expect(server["tls"]["mode"] == "MUTUAL", server)
    for file, behind in (
        ("istio/keybound-values.yaml", []),
        ("istio/over-http/keybound-values.yaml", []),
        ("istio/sidecar/keybound-values.yaml", [f"spiffe://{gateway}"]),
        ("envoy-gateway/keybound-values.yaml", []),
    ):
        carrier = yaml.safe_load((DEPLOY / file).read_text())["config"]["client_certificate"]
        found = (carrier["source"], carrier.get("xfcc", {}).get("behind", []))
        expect(found == ("xfcc", behind), f"{file}: {carrier}")
    only = [{"source": {"principals": [gateway]}}]
    for name in ("from-gateway", "keybound"):
        first = next(
            it["spec"]["rules"][0] for it in documents
            if it["metadata"]["name"] == name and it["spec"].get("action") == "ALLOW"
        )
        expect(first["from"] == only, f"{name}: {first}")

    policies = [it for it in documents if it["kind"] == "SecurityPolicy"]
    expect(len(policies) == 3, policies)
    for authorizer in (it["spec"]["extAuth"] for it in policies):
        front, port = ("http", 9002) if "http" in authorizer else ("grpc", 9001)
        service = {"name": "keybound", "namespace": "keybound", "port": port}
        expect(authorizer[front]["backendRefs"] == [service], authorizer)
        expect(deadline < milliseconds(authorizer["timeout"]), authorizer)
        expect(authorizer["failOpen"] is False and authorizer["statusOnError"] == 503, authorizer)
    (policy,) = [it for it in documents if it["kind"] == "ClientTrafficPolicy"]
    expect(policy["spec"]["headers"]["xForwardedClientCert"] == {"mode": "SanitizeSet"}, policy)


def pods(_world, _schemas):
    """Where the service listens for its administrators alone, nobody else is told to ask there. It
    is never restarted for the keys that it waits for."""
    found = 0
    for path, document in written():
        if document["kind"] != "Deployment":
            continue
        pod = document["spec"]["template"]["spec"]
        containers = pod["containers"] + pod.get("initContainers", [])
        (service,) = [it for it in containers if it["name"] == "keybound"]
        config = yaml.safe_load((path.parent / "keybound.yaml").read_text())
        expect(config["listen"]["admin"] == "127.0.0.1:9003", f"{path}: {config['listen']}")
        probes = {name: it for name, it in service.items() if name.endswith("Probe")}
        for name, probe in probes.items():
            asked = {"readinessProbe": []}.get(name, ["--live"])
            expect(probe["exec"]["command"] == ["/keybound", "healthcheck", *asked], f"{path}: {name}")
            # It gives up by itself after two seconds for each step.
            expect(probe["timeoutSeconds"] > 4, f"{path}: {name}")
        asked = {"startupProbe", "livenessProbe", "readinessProbe"}
        expect(asked == set(probes), f"{path}: {set(probes)}")
        expect("ports" not in service, f"{path}: {service}")
        found += 1
    expect(found == 1, f"{found} pods")


def names(_world, _schemas):
    """Gateways of Istio refuse names that workloads could take for others, as every Envoy here."""
    (patch,) = envoy_filters("NETWORK_FILTER")
    (gateway,) = [
        it["spec"]["selector"] for _, it in written()
        if it["kind"] == "Gateway" and it["apiVersion"].startswith("networking.istio.io/")
    ]
    expect(patch["spec"]["workloadSelector"] == {"labels": gateway}, patch)
    (change,) = patch["spec"]["configPatches"]
    merged = change["patch"]["value"]["typed_config"]
    managers = []
    for path in sorted(DEPLOY.rglob("envoy.yaml")):
        for listener in yaml.safe_load(path.read_text())["static_resources"]["listeners"]:
            for chain in listener["filter_chains"]:
                managers += [it["typed_config"] for it in chain["filters"]]
    expect(5 <= len(managers), managers)
    for manager in [merged, *managers]:
        expect(manager["@type"] == managers[0]["@type"], manager["@type"])
        options = manager["common_http_protocol_options"]
        expect(options["headers_with_underscores_action"] == "REJECT_REQUEST", options)


def modules(_world, _schemas):
    """Where Envoy has the module inside, it never lets go of it, finds it and its configuration, and asks it
    before what could act for a request that is refused."""
    objects = {it["kind"]: it["spec"] for path, it in written() if "envoy-module" in path.parts}
    proxy, policy = objects["EnvoyProxy"], objects["EnvoyExtensionPolicy"]
    (module,) = proxy["dynamicModules"]
    (used,) = policy["dynamicModule"]
    expect(module["doNotClose"] is True, module)
    expect((used["name"], used["filterName"]) == (module["name"], "keybound"), used)
    deployment = proxy["provider"]["kubernetes"]["envoyDeployment"]
    mounts = {it["name"]: it["mountPath"] for it in deployment["container"]["volumeMounts"]}
    expect(set(mounts) == {it["name"] for it in deployment["pod"]["volumes"]}, deployment)
    for file in (module["source"]["local"]["path"], used["config"]):
        expect(str(Path(file).parent) in mounts.values(), f"{file} is not mounted")
    # Each line moves it to before a filter, if that is there: the last must name the first in the chain.
    order = [(it["name"].rpartition(".")[2], it["before"].rpartition(".")[2]) for it in proxy["filterOrder"]]
    expect(order == [("dynamic_modules", it) for it in ("wasm", "ext_proc", "lua", "buffer")], order)

    (patch,) = envoy_filters("HTTP_FILTER", "envoy-module/istio")
    (change,) = patch["spec"]["configPatches"]
    expect(change["patch"]["operation"] == "INSERT_FIRST", change)
    envoy = yaml.safe_load((DEPLOY / "envoy-module/envoy.yaml").read_text())
    (listener,) = envoy["static_resources"]["listeners"]
    (chain,) = listener["filter_chains"]
    manager = chain["filters"][0]["typed_config"]
    filters = [change["patch"]["value"], manager["http_filters"][0]]
    routes = [route for it in manager["route_config"]["virtual_hosts"] for route in it["routes"]]
    named = [it["typed_per_filter_config"]["keybound"] for it in routes]
    named = [it for it in named if "disabled" not in it]
    expect(len(named) == 2, named)
    for settings in [*(it["typed_config"] for it in filters), *named]:
        expect(settings["dynamic_module_config"]["do_not_close"] is True, settings)
        expect(settings["filter_name"] == "keybound", settings)


def browsers(_world, _schemas):
    """Pages get preflights answered before keybound is asked, and may read why they are refused."""
    (patch,) = envoy_filters("HTTP_FILTER", "istio")
    (gateway,) = [
        it["spec"]["selector"] for _, it in written()
        if it["kind"] == "Gateway" and it["apiVersion"].startswith("networking.istio.io/")
    ]
    expect(patch["spec"]["workloadSelector"] == {"labels": gateway}, patch)
    (change,) = patch["spec"]["configPatches"]
    expect(change["patch"]["operation"] == "INSERT_FIRST", change)
    # The filter goes by what Istio tells one of this name.
    expect(change["patch"]["value"]["name"] == "envoy.filters.http.cors", change)
    (routed,) = [
        route for _, it in written() if it["kind"] == "VirtualService"
        for route in it["spec"]["http"] if "corsPolicy" in route
    ]
    (guarded,) = [it["spec"] for _, it in written() if "cors" in it.get("spec", {})]
    expect("extAuth" in guarded, guarded)
    for rules in (routed["corsPolicy"], guarded["cors"]):
        expect(set(rules["exposeHeaders"]) == {"www-authenticate", "dpop-nonce"}, rules)
        expect({"authorization", "dpop"} <= set(rules["allowHeaders"]), rules)
        expect("allowCredentials" not in rules, rules)


def envoy_filters(what, folder=None):
    """The objects that patch `what` of Istio's proxies."""
    found = [
        it for path, it in written()
        if it["kind"] == "EnvoyFilter" and (folder is None or path.parent == DEPLOY / folder)
    ]
    return [it for it in found if it["spec"]["configPatches"][0]["applyTo"] == what]


def written():
    """The objects in files, but for the chart's templates."""
    for path in sorted(DEPLOY.rglob("*.yaml")):
        if CHART in path.parents:
            continue
        for document in yaml.safe_load_all(path.read_text()):
            if isinstance(document, dict) and {"apiVersion", "kind"} <= set(document):
                yield path, document


def render(values):
    rendered = templates(values)
    notes = rendered.pop(NOTES)
    expect("<no value>" not in notes and "keybound answers" in notes, notes)
    return documents_of(rendered)


def documents_of(rendered):
    texts = [text for name, text in rendered.items() if name != NOTES]
    return [it for text in texts for it in yaml.safe_load_all(text) if it]


def by_kind(documents):
    """The objects by their kind. The second ConfigMap is the dashboard."""
    def kind(document):
        return "Dashboard" if document["metadata"]["name"].endswith("-dashboard") else document["kind"]

    found = {kind(it): it for it in documents}
    expect(len(found) == len(documents), f"{list(found)} of {len(documents)}")
    return found


def templates(values):
    with helm_python.Chart.load(CHART) as loaded:
        return loaded.render(values, name="keybound", namespace="keybound")


NOTES = "keybound/templates/NOTES.txt"


def validate(document, schemas, path):
    if is_foreign(document):
        try:
            jsonschema.Draft202012Validator(schema(document, schemas)).validate(document)
        except jsonschema.ValidationError as error:
            fail(f"{path}: {document['kind']}: {error.json_path}: {error.message}")
        return
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except Exception as error:
            fail(f"{path}: {document['kind']} under {version}: {getattr(error, 'message', error)}")


def refused(document, schemas):
    try:
        if is_foreign(document):
            jsonschema.Draft202012Validator(schema(document, schemas)).validate(document)
        else:
            kubernetes_validate.validate(document, KUBERNETES[-1], strict=True)
    except jsonschema.ValidationError:
        return True
    return False


def is_foreign(document):
    return document["apiVersion"].rpartition("/")[0] not in CORE


def holds_together(objects, path):
    """Names, labels and ports mean each other."""
    workload = objects.get("Deployment") or objects.get("DaemonSet")
    template = workload["spec"]["template"]
    container = template["spec"]["containers"][0]
    ports = {it["name"]: it["containerPort"] for it in container["ports"]}
    names = {"Dashboard": "keybound-dashboard", "ServiceAccount": template["spec"]["serviceAccountName"]}
    for kind, document in objects.items():
        # An object of the operator's own has no label of ours.
        if kind == "Certificate":
            continue
        expect(document["metadata"]["name"] == names.get(kind, "keybound"), f"{path}: {kind}")
        labels = template["metadata"]["labels"]
        common = {it for it in labels.items() if it[0] == "example.com/owner"}
        expect(common <= document["metadata"]["labels"].items(), f"{path}: {kind}")
        spec = document.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector") or {}
        selector = selector.get("matchLabels", selector)
        labels = template["metadata"]["labels"]
        expect(selector.items() <= labels.items(), f"{path}: {document['kind']} selects others")
    for port in objects["Service"]["spec"]["ports"]:
        expect(port["port"] == ports[port["targetPort"]], f"{path}: {port}")
    for rule in objects.get("NetworkPolicy", {}).get("spec", {}).get("ingress", []):
        expect(rule["from"] and all(it["port"] in ports for it in rule["ports"]), f"{path}: {rule}")
    for probe in ("livenessProbe", "readinessProbe"):
        expect(container[probe]["httpGet"]["port"] in ports, f"{path}: {probe}")
    if monitor := objects.get("ServiceMonitor"):
        names = {it["name"] for it in objects["Service"]["spec"]["ports"]}
        expect({it["port"] for it in monitor["spec"]["endpoints"]} <= names, f"{path}: monitor")
    if monitor := objects.get("PodMonitor"):
        asked = {it["port"] for it in monitor["spec"]["podMetricsEndpoints"]}
        expect(asked <= set(ports), f"{path}: monitor")
    if scaler := objects.get("HorizontalPodAutoscaler"):
        expect(scaler["spec"]["scaleTargetRef"]["kind"] == workload["kind"], f"{path}: scaler")
        expect("replicas" not in workload["spec"], f"{path}: replicas beside a scaler")


def is_confined(workload, path):
    """What Kubernetes calls the restricted Pod Security Standard, and a read-only root."""
    pod = workload["spec"]["template"]["spec"]
    container = pod["containers"][0]
    whole, own = pod["securityContext"], container["securityContext"]
    expect(whole["runAsNonRoot"] is True and whole["runAsUser"], path)
    expect(whole["seccompProfile"] == {"type": "RuntimeDefault"}, path)
    expect(own["allowPrivilegeEscalation"] is False, path)
    expect(own["capabilities"] == {"drop": ["ALL"]}, path)
    expect(own["readOnlyRootFilesystem"] is True, path)
    expect(pod["automountServiceAccountToken"] is False, path)
    expect(not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), path)
    host = [it["name"] for it in pod["volumes"] if "hostPath" in it]
    # The one exception, which an operator has to ask for.
    expect(host == (["socket"] if path.name == "node-socket-values.yaml" else []), path)


def configuration_is_good(objects, world, path):
    """The program accepts the configuration, with all the files that it names mounted."""
    text = objects["ConfigMap"]["data"]["keybound.yaml"]
    workload = objects.get("Deployment") or objects.get("DaemonSet")
    container = workload["spec"]["template"]["spec"]["containers"][0]
    mounts = [it["mountPath"] for it in container["volumeMounts"]]
    expect("--config=/etc/keybound/config/keybound.yaml" in container["args"], path)
    with tempfile.TemporaryDirectory() as root:
        for name in re.findall(r"(/(?:etc|var/lib|run)/keybound/\S+)", text):
            expect(any(name.startswith(f"{it}/") for it in mounts), f"{path}: {name} is not mounted")
            held = world.files / Path(name).name
            Path(root + name).parent.mkdir(parents=True, exist_ok=True)
            if held.exists():
                shutil.copy(held, root + name)
        text = re.sub(r"/(etc|var/lib)/keybound/", lambda it: root + it[0], text)
        file = Path(root, "keybound.yaml")
        file.write_text(text)
        done = subprocess.run(
            [world.keybound, "check-config", file], capture_output=True, text=True, check=False
        )
        expect(done.returncode == 0, f"{path}: {done.stderr}\n{text}")
        expect("warning: policies" not in done.stderr, f"{path}: {done.stderr}\n{text}")


def checksum(documents):
    (workload,) = [it for it in documents if it["kind"] == "Deployment"]
    return workload["spec"]["template"]["metadata"]["annotations"]["checksum/restart"]


def milliseconds(text):
    number, unit = re.fullmatch(r"([0-9.]+)(ms|s)", text).groups()
    return float(number) * {"ms": 1, "s": 1000}[unit]


def expect(holds, what):
    if not holds:
        fail(what)


def fail(what):
    raise AssertionError(str(what))


class World:
    """What the checks run with."""

    def __init__(self, keybound, files):
        self.keybound = keybound
        self.files = Path(files)


CHECKS = {
    it.__name__: it
    for it in (
        manifests, foreign_manifests, chart, lint, switches, reloads, pod, monitoring, warnings, refusals,
        providers, pods, names, modules, browsers,
    )
}

if __name__ == "__main__":
    if not 4 <= len(sys.argv) <= 5 or sys.argv[1] not in CHECKS:
        sys.exit(__doc__)
    check, keybound, files, *rest = sys.argv[1:]
    CHECKS[check](World(keybound, files), Path(rest[0]) if rest else None)
