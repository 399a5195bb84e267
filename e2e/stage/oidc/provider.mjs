// The OpenID provider of the tests. Its settings come as JSON on standard input;
// its signing keys are made anew at each start.
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer } from 'node:https';
import { text } from 'node:stream/consumers';
import { Provider } from 'oidc-provider';

const settings = JSON.parse(await text(process.stdin));
const users = new Map(settings.users.map((user) => [user.name, user.claims]));
const algorithms = new Map(settings.clients.map((client) => [client.client_id, client.id_token_signed_response_alg]));

const jwk = (...kind) => generateKeyPairSync(...kind).privateKey.export({ format: 'jwk' });

// Whoever is signed in has agreed to everything that a client asks for.
async function grantAll(ctx) {
  const { client, session, params, provider } = ctx.oidc;
  const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
  grant.addOIDCScope(params.scope);
  await grant.save();
  return grant;
}

const provider = new Provider(settings.issuer, {
  clients: settings.clients,
  jwks: { keys: [jwk('rsa', { modulusLength: 2048 }), jwk('ec', { namedCurve: 'P-256' })] },
  cookies: { keys: [randomBytes(32).toString('hex')] },
  claims: { openid: ['sub', ...new Set(settings.users.flatMap((user) => Object.keys(user.claims)))] },
  conformIdTokenClaims: false, // the ID token has the user's claims
  findAccount: (ctx, sub) => (users.has(sub) ? { accountId: sub, claims: () => ({ ...users.get(sub), sub }) } : undefined),
  extraTokenClaims: (ctx, token) => users.get(token.accountId),
  loadExistingGrant: grantAll,
  ttl: {
    AccessToken: settings.lifetime, ClientCredentials: settings.lifetime, IdToken: settings.lifetime,
    Grant: 3600, Interaction: 3600, RefreshToken: 3600, Session: 3600,
  },
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    introspection: { enabled: true },
    resourceIndicators: {
      enabled: true,
      useGrantedResource: () => true,
      getResourceServerInfo: (ctx, audience, client) => ({
        audience, scope: '', accessTokenFormat: 'jwt', accessTokenTTL: settings.lifetime,
        jwt: { sign: { alg: algorithms.get(client.clientId) } },
      }),
    },
  },
});

const page = (message) => `<!doctype html><title>Sign in</title><h1>Sign in</h1><p role="alert">${message}</p>
<form method="post"><label>User <input name="user" autofocus></label><button>Sign in</button></form>`;

// The page where users sign in: they give their name.
provider.use(async (ctx, next) => {
  if (!ctx.path.startsWith('/interaction/')) return next();
  await provider.interactionDetails(ctx.req, ctx.res); // throws unless the browser is in one
  const user = ctx.method === 'POST' ? new URLSearchParams(await text(ctx.req)).get('user') : undefined;
  if (users.has(user)) {
    ctx.status = 303;
    ctx.redirect(await provider.interactionResult(ctx.req, ctx.res, { login: { accountId: user } }));
    return undefined;
  }
  ctx.status = user === undefined ? 200 : 401;
  ctx.body = page(user === undefined ? '' : 'There is no such user.');
  return undefined;
});
provider.on('server_error', (ctx, err) => console.error(err));

createServer({ key: settings.key, cert: settings.chain }, provider.callback()).listen(settings.port, '127.0.0.1');
