"""What a check costs behind a real proxy: Envoy and nginx alone, and with somebody to ask.

The proxy and whom it asks share one core. Clients come by HTTP/1.1 over mutual TLS, on connections
that are kept.
"""

import json
import sys
from pathlib import Path

from servers import LONGER, PLACE, Server, figures, free_port, in_turn, provisioned, ran

CLIENTS = 16


def measure(workshop, rounds, seconds):
    """What each showed in each round, at 1,000 requests a second and at all that it takes."""
    seen = {}
    http = free_port()
    with (
        Server(workshop.noop("full")) as noop,
        Server(workshop.service()) as service,
        Server(workshop.service("nginx.yaml", http=http)) as other,
        Envoy(workshop, {"Envoy": None, "Envoy, noop": noop, "Envoy, keybound": service}) as envoy,
        Nginx(workshop, {"nginx": None, "nginx, keybound": http}) as nginx,
    ):
        everybody = [(it, proxy) for proxy in (envoy, nginx) for it in proxy.ports]
        asked = {"Envoy, noop": noop, "Envoy, keybound": service, "nginx, keybound": other}
        for turn in range(rounds):
            print(f"behind proxies: round {turn + 1} of {rounds}", file=sys.stderr)
            for name, proxy in in_turn(everybody, turn):
                processes = [*proxy.processes(), *([asked[name].process.pid] if name in asked else [])]
                for load, span, more in (("saturated", seconds, []),
                                         ("1000/s", LONGER * seconds, ["--rate", 1000])):
                    command = browsing(workshop, proxy.ports[name], processes, span) + more
                    found = figures(name, "200", ran(command))
                    seen.setdefault(f"{name}, {load}", []).append(found)
    return seen


def browsing(workshop, port, processes, seconds):
    pids = [it for pid in processes for it in ("--pid", pid)]
    return [workshop.harness, "browse", "--to", f"127.0.0.1:{port}", "--file", workshop.corpus,
            "--connections", CLIENTS, "--seconds", seconds, *pids]


class Proxy(Server):
    """A proxy with a listener for each of those whom it asks."""

    def __init__(self, binary, configuration, ports):
        self.ports = ports
        file = PLACE / f"{Path(binary).name}.conf"
        file.write_text(configuration)
        super().__init__(lambda _: self.command(binary, file), next(iter(ports.values())))

    def processes(self):
        """Its process, and those that it started."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return children or [pid]


class Envoy(Proxy):
    def __init__(self, workshop, asked):
        ports = {name: free_port() for name in asked}
        clusters = [cluster(it.port) for it in asked.values() if it]
        listeners = [listener(workshop.corpus, port, asked[name]) for name, port in ports.items()]
        resources = {"static_resources": {"listeners": listeners, "clusters": clusters}}
        super().__init__(provisioned("envoy"), json.dumps(resources), ports)

    @staticmethod
    def command(binary, file):
        return [binary, "--config-yaml", file.read_text(), "--concurrency", "1",
                "--disable-hot-restart", "--log-level", "error"]


TYPE = "type.googleapis.com/envoy.extensions."


def listener(corpus, port, asked):
    authorization = {"name": "ext_authz", "typed_config": {
        "@type": TYPE + "filters.http.ext_authz.v3.ExtAuthz", "transport_api_version": "V3",
        "include_peer_certificate": True, "encode_raw_headers": True,
        "grpc_service": {"envoy_grpc": {"cluster_name": asked and str(asked.port)}, "timeout": "1s"}}}
    router = {"name": "router", "typed_config": {"@type": TYPE + "filters.http.router.v3.Router"}}
    answer = {"status": 200, "body": {"inline_string": "ok"}}
    manager = {
        "@type": TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "use_remote_address": True,
        "normalize_path": True,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "direct_response": answer}]}]},
        "http_filters": [*([authorization] if asked else []), router],
    }
    own = {"certificate_chain": {"filename": f"{corpus}/server.pem"},
           "private_key": {"filename": f"{corpus}/server.key"}}
    tls = {
        "@type": TYPE + "transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificates": [own],
            "validation_context": {"trusted_ca": {"filename": f"{corpus}/ca.pem"}}},
    }
    return {
        "name": str(port),
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{
            "transport_socket": {"name": "tls", "typed_config": tls},
            "filters": [{"name": "http", "typed_config": manager}]}],
    }


def cluster(port):
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
    name = str(port)
    return {
        "name": name, "type": "STATIC", "connect_timeout": "1s",
        "typed_extension_protocol_options": {options: {
            "@type": "type.googleapis.com/" + options,
            "explicit_http_config": {"http2_protocol_options": {}}}},
        "load_assignment": {
            "cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    }


class Nginx(Proxy):
    def __init__(self, workshop, asked):
        ports = {name: free_port() for name in asked}
        servers = [self.server(workshop.corpus, port, asked[name]) for name, port in ports.items()]
        (PLACE / "www").mkdir(exist_ok=True)
        (PLACE / "www" / "ok").write_text("ok")
        configuration = f"""
daemon off; worker_processes 1; pid {PLACE}/nginx.pid; error_log {PLACE}/nginx.log crit;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 300;
  client_body_temp_path {PLACE}/nginx-body; proxy_temp_path {PLACE}/nginx-proxy;
  fastcgi_temp_path {PLACE}/nginx-f; uwsgi_temp_path {PLACE}/nginx-u; scgi_temp_path {PLACE}/nginx-s;
  large_client_header_buffers 4 20k;
  {"".join(servers)}
}}
"""
        super().__init__(provisioned("nginx"), configuration, ports)

    @staticmethod
    def command(binary, file):
        return [binary, "-p", PLACE, "-c", file, "-e", PLACE / "nginx.log"]

    @staticmethod
    def server(corpus, port, asked):
        """The questions are those of deploy/nginx."""
        tls = (f"ssl_certificate {corpus}/server.pem; ssl_certificate_key {corpus}/server.key; "
               f"ssl_client_certificate {corpus}/ca.pem; ssl_verify_client on;")
        asking = "" if asked is None else f"""
    auth_request /keybound;
    location = /keybound {{
      internal;
      proxy_pass http://keybound/check;
      proxy_http_version 1.1;
      proxy_pass_request_body off;
      proxy_buffer_size 16k;
      proxy_buffers 4 16k;
      proxy_set_header Connection "";
      proxy_set_header Content-Length "";
      proxy_set_header X-Original-Method $request_method;
      proxy_set_header X-Original-URI $request_uri;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $host:$server_port;
      proxy_set_header X-SSL-Client-Cert $ssl_client_escaped_cert;
      proxy_set_header X-SSL-Client-Verify $ssl_client_verify;
    }}"""
        upstream = "" if asked is None else f"""
  upstream keybound {{ server 127.0.0.1:{asked}; keepalive 16; }}"""
        return f"""{upstream}
  server {{
    listen 127.0.0.1:{port} ssl; {tls}
    location / {{ root {PLACE}/www; try_files /ok =404; }}{asking}
  }}"""
