"""The stage of the soak: keybound beside Envoy and inside it, with Redis and an issuer, and what happens to
them."""

import http.client
import itertools
import json
import signal
import socket
import ssl
import sys
import time

from envoy import cluster, dynamic_module, ext_authz, listener
from module import MODULE
from proxy import HOST
from servers import Server, free_port, provisioned

# Seconds for which Redis and the issuer are away.
AWAY = 5
# Seconds within which what was changed is in force.
IN_FORCE = 15
# Seconds after which a mistake would be in force.
NOTICED = 3

# Envoy's drain of a listener ends with these seconds.
DRAIN = ["--drain-time-s", "5", "--drain-strategy", "immediate"]


class Stage:
    """All that runs. `tell` takes a line on what is about to happen or has happened. Deadlines are those of an
    operator who sets none if they are `usual`, and else far longer."""

    def __init__(self, workshop, folder, started, tell, usual):
        self.workshop, self.folder, self.tell, self.usual = workshop, folder, tell, usual
        self.version, self.failures = 0, []
        names = ("redis", "issuer", "keybound", "ext_authz", "module")
        self.ports = {name: free_port() for name in names}
        self.certificates = {it: itertools.cycle(["renewed", "server"]) for it in ("keybound", "envoy")}
        (folder / "redis-url").write_text(f"redis://127.0.0.1:{self.ports['redis']}\n")
        self.certify("server")
        self.configure()
        self.listen("server")
        self.put("envoy.json", json.dumps(self.bootstrap()))
        self.servers = {}
        started.callback(self.end)
        for name in ("redis", "issuer", "keybound", "envoy"):
            self.start(name)
        self.expect_everywhere("the start", self.is_in_force)

    # ---- the programs ----

    def start(self, name):
        folder = self.folder
        port = self.ports["module" if name == "envoy" else name]
        command = {
            "redis": lambda: [
                provisioned("redis"), "--bind", "127.0.0.1", "--port", port, "--dir", folder,
                "--save", "", "--appendonly", "yes", "--appendfsync", "always"],
            "issuer": lambda: [
                sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1",
                "--directory", folder / "issuer"],
            "keybound": lambda: [self.workshop.keybound, "serve", "--config", folder / "service.yaml"],
            "envoy": lambda: [
                provisioned("envoy"), "-c", folder / "envoy.json", "--concurrency", 2,
                "--disable-hot-restart", "--log-level", "error", *DRAIN],
        }[name]()
        self.servers[name] = Server(lambda _: command, port, core=None)

    def end(self):
        for server in self.servers.values():
            server.__exit__(self.failures or None)

    def crash(self, name):
        """Ends a program as a crash would, and starts it anew where it was."""
        self.tell(f"{name} down")
        self.servers[name].process.kill()
        self.servers[name].process.wait()
        time.sleep(AWAY)
        self.start(name)
        if name == "redis":
            self.expect("what Redis has written", self.is_loaded)
        self.tell(f"{name} up")

    # ---- what is configured ----

    def configure(self, mistake=""):
        """The next configuration, which is told from the one before by its realm."""
        self.version += not mistake
        timeout = "" if self.usual else ", timeout: 2s"
        deadline = "" if self.usual else "check_deadline: 5s, "
        rules = f"""
issuers:
- issuer: https://as.bank.example/oauth/v2
  audiences: [https://api.bank.example]
  keys:
    jwks_uri: http://127.0.0.1:{self.ports["issuer"]}/jwks.json
    refresh_min: 1s
    refresh_default: 10s
  revocation: {{denylist_file: revoked.yaml}}
policies:
- {{name: api, sender_constraint: either, realm: api-{self.version}}}
dpop: {{replay: {{store: redis, url_file: redis-url{timeout}}}}}
limits: {{{deadline}token_cache_entries: 5000}}
{mistake}
"""
        own = f"""
  ext_authz: 127.0.0.1:{self.ports["keybound"]}
  tls: {{certificate_file: own/server.pem, key_file: own/server.key}}"""
        for name, more in (("service", own), ("module", "")):
            self.put(f"{name}.yaml", f"listen:\n  admin: 127.0.0.1:0{more}{rules}")

    def put(self, name, text):
        """By a rename, as those who watch a file want it."""
        (self.folder / "put").write_text(text)
        (self.folder / "put").rename(self.folder / name)

    def certify(self, name):
        """Another certificate for keybound's listener, and its key at the same time."""
        place = self.folder / f"own-{name}"
        place.mkdir(exist_ok=True)
        for kind in ("pem", "key"):
            (place / f"server.{kind}").write_bytes((self.folder / f"{name}.{kind}").read_bytes())
        link = self.folder / "link"
        link.unlink(missing_ok=True)
        link.symlink_to(place.name)
        link.rename(self.folder / "own")

    def listen(self, server):
        """Listeners with another certificate."""
        asking = ext_authz(self.ports["keybound"], "0.2s" if self.usual else "10s")
        filters = {"ext_authz": asking, "module": dynamic_module(MODULE, self.folder / "module.yaml")}
        kind = "type.googleapis.com/envoy.config.listener.v3.Listener"
        listeners = [{"@type": kind, **listener(self.folder, self.ports[name], [it], server)}
                     for name, it in filters.items()]
        self.put("listeners.json", json.dumps({"resources": listeners}))

    def bootstrap(self):
        tls = {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": HOST,
            "common_tls_context": {
                "validation_context": {"trusted_ca": {"filename": f"{self.folder}/ca.pem"}}},
        }
        asked = cluster(self.ports["keybound"])
        asked["transport_socket"] = {"name": "tls", "typed_config": tls}
        file = {"path_config_source": {"path": f"{self.folder}/listeners.json"}, "resource_api_version": "V3"}
        return {
            "node": {"id": "soak", "cluster": "soak"},
            "dynamic_resources": {"lds_config": file},
            "static_resources": {"clusters": [asked]},
        }

    # ---- what happens ----

    def issuer(self):
        self.crash("issuer")

    def redis(self):
        self.crash("redis")

    def rotation(self):
        self.tell("rotate")

    def withdrawal(self):
        self.tell("withdraw")

    def revocation(self):
        self.tell("revoke")

    def reload(self):
        self.tell("reload")
        self.configure()
        self.hang_up()
        self.expect_everywhere("the reload", self.is_in_force)

    def watched_file(self):
        self.tell("file without a signal")
        self.configure()
        self.expect_everywhere("the file", self.is_in_force)

    def mistake(self):
        self.tell("mistake")
        self.configure("policys: []")
        self.hang_up()
        time.sleep(NOTICED)
        self.expect_everywhere("what was there before the mistake", self.is_in_force)
        self.reload()

    def listeners(self):
        self.tell("listeners")
        server = next(self.certificates["envoy"])
        self.listen(server)
        self.expect_everywhere("the listeners", lambda port: self.shows(port, server))

    def certificate(self):
        self.tell("certificate")
        server = next(self.certificates["keybound"])
        self.certify(server)
        port = self.ports["keybound"]
        self.expect("the certificate", lambda: self.shows(port, server))

    TIMETABLE = (issuer, reload, rotation, redis, listeners, withdrawal, revocation, certificate, watched_file,
                 mistake)

    def hang_up(self):
        self.servers["keybound"].process.send_signal(signal.SIGHUP)

    # ---- what is seen of it ----

    def expect_everywhere(self, what, holds):
        for name in ("ext_authz", "module"):
            self.expect(f"{what}, {name}", lambda: holds(self.ports[name]))

    def expect(self, what, holds):
        """Waits until it holds; keeps it as a failure when it does not."""
        deadline = time.monotonic() + IN_FORCE
        while True:
            try:
                if holds():
                    return
                seen = "it does not hold"
            except (OSError, http.client.HTTPException) as error:
                seen = repr(error)
            if deadline < time.monotonic():
                self.failures.append(f"{what}: {seen}")
                self.tell(f"FAILED: {what}: {seen}")
                return
            time.sleep(0.1)

    def is_loaded(self):
        """Whether Redis has read what it wrote before: until then it listens and answers `LOADING`."""
        with socket.create_connection(("127.0.0.1", self.ports["redis"]), timeout=10) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(100).startswith(b"+PONG")

    def is_in_force(self, port):
        """Whether the configuration is that who refuses a request without a token."""
        client = http.client.HTTPSConnection(f"127.0.0.1:{port}", timeout=10)
        client.sock = self.connected(port)
        client.request("GET", "/", headers={"host": HOST})
        challenge = client.getresponse().headers.get("www-authenticate", "")
        client.close()
        return f'realm="api-{self.version}"' in challenge

    def shows(self, port, server):
        """Whether a listener has this certificate."""
        with self.connected(port) as connection:
            shown = connection.getpeercert(binary_form=True)
        return shown == ssl.PEM_cert_to_DER_cert((self.folder / f"{server}.pem").read_text())

    def connected(self, port):
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        context.load_cert_chain(self.folder / "client.pem", self.folder / "client.key")
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        return context.wrap_socket(plain, server_hostname=HOST)
