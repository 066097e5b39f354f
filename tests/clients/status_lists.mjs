// An issuer with status lists by @sd-jwt/jwt-status-list. It answers a line of JSON with a line of JSON.
import { StatusList, createHeaderAndPayload } from "@sd-jwt/jwt-status-list";
import { SignJWT, exportJWK, generateKeyPair } from "jose";
import { createServer } from "node:http";
import { createInterface } from "node:readline";

const { publicKey, privateKey } = await generateKeyPair("ES256");
const kid = "npm";
const jwk = { ...(await exportJWK(publicKey)), kid, alg: "ES256", use: "sig" };
const served = new Map([["/jwks", ["application/json", JSON.stringify({ keys: [jwk] })]]]);

const server = createServer((request, response) => {
  const [type, body] = served.get(request.url) ?? [];
  response.writeHead(type ? 200 : 404, type ? { "content-type": type } : {}).end(body);
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const iss = `http://127.0.0.1:${server.address().port}`;
const say = (what) => console.log(JSON.stringify(what));
say({ iss });

const now = () => Math.floor(Date.now() / 1000);
const sign = (header, payload) => new SignJWT(payload).setProtectedHeader(header).sign(privateKey);

async function list({ path, bits, statuses }) {
  const { header, payload } = createHeaderAndPayload(
    new StatusList(statuses, bits),
    { iss, sub: iss + path, iat: now(), exp: now() + 3600, ttl: 60 },
    { alg: "ES256", typ: "statuslist+jwt", kid },
  );
  served.set(path, ["application/statuslist+jwt", await sign(header, payload)]);
  return { uri: iss + path };
}

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  if (asked.list) {
    say(await list(asked.list));
  } else {
    const claims = { iss, iat: now(), exp: now() + 300, ...asked.token };
    say({ token: await sign({ alg: "ES256", typ: "at+jwt", kid }, claims) });
  }
}
process.exit(0);
