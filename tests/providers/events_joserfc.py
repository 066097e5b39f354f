"""Signs security event tokens by joserfc: a line of JSON `{"alg": …, "claims": …}` in, the public JWK and
the token out."""

import json
import sys

from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

MAKE = {
    "RS256": lambda: RSAKey.generate_key(2048, {"kid": "k"}),
    "PS256": lambda: RSAKey.generate_key(2048, {"kid": "k"}),
    "ES256": lambda: ECKey.generate_key("P-256", {"kid": "k"}),
    "Ed25519": lambda: OKPKey.generate_key("Ed25519", {"kid": "k"}),
}

for line in sys.stdin:
    asked = json.loads(line)
    alg = asked["alg"]
    key = MAKE[alg]()
    header = {"alg": alg, "typ": "secevent+jwt", "kid": "k"}
    token = jwt.encode(header, asked["claims"], key, algorithms=[alg])
    print(json.dumps({"jwk": key.as_dict(private=False), "token": token}), flush=True)
