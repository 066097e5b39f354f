// Signs security event tokens by jose: a line of JSON `{"alg": …, "claims": …}` in, the public JWK and the
// token out.

import { SignJWT, exportJWK, generateKeyPair } from "jose";
import { createInterface } from "node:readline";

for await (const line of createInterface({ input: process.stdin })) {
  const { alg, claims } = JSON.parse(line);
  const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true });
  const header = { alg, typ: "secevent+jwt", kid: "k" };
  const token = await new SignJWT(claims).setProtectedHeader(header).sign(privateKey);
  console.log(JSON.stringify({ jwk: { ...(await exportJWK(publicKey)), kid: "k" }, token }));
}
