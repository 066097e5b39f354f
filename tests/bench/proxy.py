"""A proxy on the core of those who serve, and clients that come through it: by HTTP/1.1 over mutual
TLS, on connections that are kept."""

import http.client
import ssl
import sys
from pathlib import Path

from servers import LONGER, PLACE, Server, figures, ran

CLIENTS = 16
HOST = "api.bank.example"


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


def browsed(workshop, name, port, processes, seconds):
    """The figures of clients who come to a port: of all that is taken, and at 1,000 requests a second."""
    for load, more in (("saturated", ["--seconds", seconds]),
                       ("1000/s", ["--seconds", LONGER * seconds, "--rate", 1000])):
        command = browsing(workshop, port, processes, more)
        yield f"{name}, {load}", figures(name, "200", ran(command))


def browsing(workshop, port, processes, more):
    pids = [it for pid in processes for it in ("--pid", pid)]
    return [workshop.harness, "browse", "--to", f"127.0.0.1:{port}", "--file", workshop.corpus,
            "--connections", CLIENTS, *pids, *more]


def must_refuse(workshop, name, port):
    """Ends the run unless the port answers whom the token belongs to, and nobody else."""
    first, second = (workshop.corpus / "tokens.txt").read_text().splitlines()[:2]
    forged = ".".join([*first.split(".")[:2], second.split(".")[2]])
    told = {
        "the client": status(workshop, port, "client", first),
        "another": status(workshop, port, "another", first),
        "a forger": status(workshop, port, "client", forged),
        "no token": status(workshop, port, "client", None),
    }
    if list(told.values()) != [200, 401, 401, 401]:
        sys.exit(f"{name}: wrong answers: {told}")


def status(workshop, port, identity, token):
    """What a client with this certificate and this token is told."""
    corpus = workshop.corpus
    context = ssl.create_default_context(cafile=corpus / "ca.pem")
    context.load_cert_chain(corpus / f"{identity}.pem", corpus / f"{identity}.key")
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    client.connect()
    client.sock = context.wrap_socket(client.sock, server_hostname=HOST)
    client.request("GET", "/accounts", headers={
        "host": HOST, **({"authorization": f"Bearer {token}"} if token else {})})
    found = client.getresponse().status
    client.close()
    return found
