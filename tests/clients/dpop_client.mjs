// A DPoP client by the library that its argument names. It says the thumbprint of its key, and the time by
// its clock in seconds, `{"jkt": …, "now": …}`, and asks for each line `{"url": …, "token": …}`, with one nonce
// for all; it answers with what it sent and got, `{"exchanges": […]}`.

import { createInterface } from 'node:readline';

let exchanges = [];

async function told(url, init) {
  const response = await fetch(url, init);
  const { authorization, dpop } = Object.fromEntries(new Headers(init.headers));
  exchanges.push({
    headers: { authorization, dpop }, status: response.status, body: await response.clone().json(),
  });
  return response;
}

const libraries = {
  async dpop() {
    const { calculateThumbprint, generateKeyPair, generateProof } = await import('dpop');
    const key = await generateKeyPair('ES256');
    let nonce;
    const once = async (url, token) => {
      const dpop = await generateProof(key, url, 'GET', nonce, token);
      const response = await told(url, { headers: { authorization: `DPoP ${token}`, dpop } });
      nonce = response.headers.get('dpop-nonce') ?? nonce;
      return response;
    };
    const get = async (url, token) => {
      const challenge = (await once(url, token)).headers.get('www-authenticate');
      if (challenge?.includes('use_dpop_nonce')) await once(url, token);
    };
    return { jkt: await calculateThumbprint(key.publicKey), get };
  },
  async 'openid-client'() {
    const client = await import('openid-client');
    const config = new client.Configuration({ issuer: 'https://as.example.com' }, 'client');
    config[client.customFetch] = told;
    const key = await client.randomDPoPKeyPair('ES256');
    const DPoP = client.getDPoPHandle(config, key);
    const get = (url, token) =>
      client.fetchProtectedResource(config, token, new URL(url), 'GET', null, undefined, { DPoP })
        // It asks once more by itself; what it throws is a denial.
        .catch(() => {});
    return { jkt: await DPoP.calculateThumbprint(), get };
  },
};

const { jkt, get } = await libraries[process.argv[2]]();
console.log(JSON.stringify({ jkt, now: Math.floor(Date.now() / 1000) }));
for await (const line of createInterface({ input: process.stdin })) {
  const { url, token } = JSON.parse(line);
  exchanges = [];
  await get(url, token);
  console.log(JSON.stringify({ exchanges }));
}
