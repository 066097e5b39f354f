"""Makes keys and signs with them, by jwcrypto: a line of JSON in, a line of JSON out.

`{"alg": …}` makes a key, and tells its public JWK and its thumbprint. `{"key": …, "header": …, "claims": …}`
signs by the key with that thumbprint, and tells the compact JWS.
"""

import json
import sys

from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS

keys = {}


def made(alg):
    key = JWK.generate(kty="AKP", alg=alg)
    keys[key.thumbprint()] = key
    return {"jwk": key.export_public(as_dict=True), "thumbprint": key.thumbprint()}


def signed(key, header, claims):
    jws = JWS(json.dumps(claims))
    jws.allowed_algs = [header["alg"]]
    jws.add_signature(keys[key], protected=json.dumps(header))
    return jws.serialize(compact=True)


for line in sys.stdin:
    asked = json.loads(line)
    answer = signed(**asked) if "key" in asked else made(**asked)
    print(json.dumps(answer), flush=True)
