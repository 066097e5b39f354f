// An MCP client with a DPoP session, and the user before it. Its argument is its name at the authorization
// server, where it otherwise registers.
//
// For each line `{"url": …, "tool": …, "arguments": …}` it calls a tool of the server there; without a tool, it
// listens to what the server says of its own accord until that ends: `{"ended": MILLISECONDS}`. It answers with
// what came of it and with all that it sent and got: `{"result": …}` or `{"error": …}`, and `"exchanges": […]`.

import { createInterface } from 'node:readline';
import {
  Client, DpopSession, StreamableHTTPClientTransport, UnauthorizedError,
} from '@modelcontextprotocol/client';

const redirectUrl = 'http://127.0.0.1/callback';
const clientId = process.argv[2];

// What the client keeps of its user: one registration, one key, one token.
class User {
  redirectUrl = redirectUrl;
  clientMetadata = {
    client_name: 'test',
    redirect_uris: [redirectUrl],
    token_endpoint_auth_method: 'none',
    grant_types: ['authorization_code'],
    response_types: ['code'],
  };
  #kept = { client: clientId && { client_id: clientId } };
  #session = DpopSession.create();

  dpop() { return this.#session; }
  clientInformation() { return this.#kept.client; }
  saveClientInformation(client) { this.#kept.client = client; }
  tokens() { return this.#kept.tokens; }
  saveTokens(tokens) { this.#kept.tokens = tokens; }
  codeVerifier() { return this.#kept.verifier; }
  saveCodeVerifier(verifier) { this.#kept.verifier = verifier; }
  discoveryState() { return this.#kept.discovered; }
  saveDiscoveryState(discovered) { this.#kept.discovered = discovered; }

  // What a browser would do, up to the redirect to the client.
  async redirectToAuthorization(url) {
    const cookies = new Map();
    while (!url.href.startsWith(redirectUrl)) {
      const cookie = [...cookies].map(it => it.join('=')).join('; ');
      const response = await fetch(url, { redirect: 'manual', headers: { cookie } });
      for (const set of response.headers.getSetCookie()) {
        const [, name, value] = set.match(/^([^=]+)=([^;]*)/);
        cookies.set(name, value);
      }
      const to = response.headers.get('location');
      if (!to) throw new Error(`${url}: ${response.status} ${await response.text()}`);
      url = new URL(to, url);
    }
    this.answer = url.searchParams;
  }
}

const user = new User();

// When a stream ended, by the clock.
async function end(stream) {
  try {
    for await (const _ of stream);
  } catch {
    // It was cut.
  }
  return { ended: Date.now() };
}

async function call({ url, tool, arguments: args }, exchanges) {
  let opened;
  const ended = new Promise(resolve => { opened = stream => resolve(end(stream)); });
  const told = async (input, init) => {
    const headers = Object.fromEntries(new Headers(init?.headers));
    const response = await fetch(input, init);
    exchanges.push({
      method: init?.method ?? 'GET', url: String(input), headers, body: String(init?.body ?? ''),
      status: response.status, challenge: response.headers.get('www-authenticate'),
    });
    const isStream = response.headers.get('content-type')?.startsWith('text/event-stream');
    if (init?.method === 'GET' && isStream) opened(response.clone().body);
    return response;
  };
  // Once more for each time that the user is asked.
  for (let asked = 0; ; asked += 1) {
    const client = new Client({ name: 'test', version: '1.0.0' });
    const transport =
      new StreamableHTTPClientTransport(new URL(url), { authProvider: user, fetch: told });
    try {
      await client.connect(transport);
      return await (tool ? client.callTool({ name: tool, arguments: args }) : ended);
    } catch (error) {
      if (asked || !(error instanceof UnauthorizedError)) throw error;
      await transport.finishAuth(user.answer);
    } finally {
      await client.close();
    }
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const exchanges = [];
  const came = await call(JSON.parse(line), exchanges)
    .then(result => ({ result }), error => ({ error: String(error) }));
  console.log(JSON.stringify({ ...came, exchanges }));
}
