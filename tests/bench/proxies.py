"""What a check costs behind a real proxy: Envoy and nginx alone, and with somebody to ask.

The proxy and whom it asks share one core.
"""

import sys

from envoy import Envoy, ext_authz
from proxy import Proxy, browsed
from servers import PLACE, Server, free_port, in_turn, provisioned


def measure(workshop, rounds, seconds):
    """What each showed in each round, at 1,000 requests a second and at all that it takes."""
    seen = {}
    http = free_port()
    with (
        Server(workshop.noop("full")) as noop,
        Server(workshop.service()) as service,
        Server(workshop.service("nginx.yaml", http=http)) as other,
        Envoy(workshop, {"Envoy": [], "Envoy, noop": [ext_authz(noop.port)],
                         "Envoy, keybound": [ext_authz(service.port)]}, [noop, service]) as envoy,
        Nginx(workshop, {"nginx": None, "nginx, keybound": http}) as nginx,
    ):
        everybody = [(it, proxy) for proxy in (envoy, nginx) for it in proxy.ports]
        asked = {"Envoy, noop": noop, "Envoy, keybound": service, "nginx, keybound": other}
        for turn in range(rounds):
            print(f"behind proxies: round {turn + 1} of {rounds}", file=sys.stderr)
            for name, proxy in in_turn(everybody, turn):
                processes = [*proxy.processes(), *([asked[name].process.pid] if name in asked else [])]
                for load, found in browsed(workshop, name, proxy.ports[name], processes, seconds):
                    seen.setdefault(load, []).append(found)
    return seen


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
