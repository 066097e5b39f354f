"""An issuer with status lists by token-status-list. It answers a line of JSON with a line of JSON."""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from token_status_list import IssuerStatusList, b64url_encode, dict_to_b64

KID = "pypi"
KEY = ec.generate_private_key(ec.SECP256R1())


def main():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    iss = f"http://127.0.0.1:{server.server_port}"
    say({"iss": iss})
    for line in sys.stdin:
        asked = json.loads(line)
        if "list" in asked:
            say(listed(iss, **asked["list"]))
        else:
            now = int(time.time())
            claims = {"iss": iss, "iat": now, "exp": now + 300} | asked["token"]
            header = {"alg": "ES256", "typ": "at+jwt", "kid": KID}
            signed = b".".join(dict_to_b64(it) for it in (header, claims))
            say({"token": f"{signed.decode()}.{b64url_encode(sign(signed)).decode()}"})


def listed(iss, path, bits, statuses):
    issuer = IssuerStatusList.new(bits, len(statuses), "linear")
    for index, status in enumerate(statuses):
        issuer[index] = status
    now = int(time.time())
    signed = issuer.sign_jwt_payload(
        alg="ES256", kid=KID, iss=iss, sub=iss + path, iat=now, exp=now + 3600, ttl=60
    )
    # Put together here, since this version of the library writes the signature as `b'...'`.
    token = signed + b"." + b64url_encode(sign(signed))
    SERVED[path] = ("application/statuslist+jwt", token)
    return {"uri": iss + path}


def sign(payload):
    r, s = decode_dss_signature(KEY.sign(payload, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def jwks():
    public = KEY.public_key().public_numbers()
    x, y = (b64url_encode(it.to_bytes(32, "big")).decode() for it in (public.x, public.y))
    key = {"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": KID, "alg": "ES256", "use": "sig"}
    return json.dumps({"keys": [key]}).encode()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        kind, body = SERVED.get(self.path, (None, b""))
        self.send_response(200 if kind else 404)
        self.send_header("Content-Type", kind or "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


def say(what):
    print(json.dumps(what), flush=True)


SERVED = {"/jwks": ("application/json", jwks())}

if __name__ == "__main__":
    main()
