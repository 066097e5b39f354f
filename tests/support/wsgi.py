"""An upstream that tells what a WSGI application gets to see of a request.

Prints its port, and then answers every request with the strings of its environment, as JSON.
"""

import json
import socketserver
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server


class Quiet(WSGIRequestHandler):
    def log_message(self, *_arguments):
        pass


class Threaded(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


def application(environ, start_response):
    start_response("200 OK", [("content-type", "application/json")])
    seen = {name: value for name, value in environ.items() if name.startswith("HTTP_")}
    return [json.dumps({"environ": seen}).encode()]


if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, application, server_class=Threaded, handler_class=Quiet)
    print(server.server_port, flush=True)
    server.serve_forever()
