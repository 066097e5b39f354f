// An authorization server for any resource, by oidc-provider. It says its issuer once it listens:
// `{"issuer": …}`. Who comes is alice, and gets what is asked for. It knows one client already, and has
// others register. Its arguments are the scopes, that client, and for how many seconds tokens are good.

import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { exportJWK, generateKeyPair } from 'jose';
import { Provider } from 'oidc-provider';

const [scope, clientId, seconds] = process.argv.slice(2);
const login = '/login/';

const server = createServer().listen(0, '127.0.0.1');
await once(server, 'listening');
const issuer = `http://127.0.0.1:${server.address().port}`;

const { privateKey } = await generateKeyPair('ES256', { extractable: true });
const key = { ...(await exportJWK(privateKey)), alg: 'ES256', use: 'sig', kid: 'first' };

const provider = new Provider(issuer, {
  jwks: { keys: [key] },
  cookies: { keys: ['a secret of one test'] },
  clients: [{
    client_id: clientId,
    application_type: 'native',
    redirect_uris: ['http://127.0.0.1/callback'],
    token_endpoint_auth_method: 'none',
  }],
  clientDefaults: { id_token_signed_response_alg: 'ES256' },
  enabledJWA: { idTokenSigningAlgValues: ['ES256'] },
  scopes: scope.split(' '),
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  // What a page would ask the user.
  interactions: { url: (_, interaction) => login + interaction.uid },
  async loadExistingGrant({ oidc }) {
    const { clientId } = oidc.client;
    const grant = new provider.Grant({ clientId, accountId: oidc.session.accountId });
    grant.addOIDCScope(oidc.params.scope);
    grant.addResourceScope(oidc.params.resource, oidc.params.scope);
    await grant.save();
    return grant;
  },
  features: {
    devInteractions: { enabled: false },
    // A proof whose time is wrong is asked for again, with a nonce.
    dPoP: { enabled: true, nonceSecret: randomBytes(32) },
    registration: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: () => ({
        scope,
        accessTokenTTL: Number(seconds),
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'ES256' } },
      }),
    },
  },
});

const respond = provider.callback();
server.on('request', (request, response) => {
  if (!request.url.startsWith(login)) return respond(request, response);
  const agreed = { login: { accountId: 'alice' }, consent: {} };
  return provider.interactionFinished(request, response, agreed);
});
console.log(JSON.stringify({ issuer }));
