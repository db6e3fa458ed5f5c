// A real OpenID provider (npm oidc-provider) for tests/contracts/test_issuers.py.
// Keys come from the environment, so that a restart with others is a rotation.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(process.env.MODULES + "/");
const { default: Provider } = await import(pathToFileURL(require.resolve("oidc-provider")).href);
const port = Number(process.env.PORT);
const issuer = `http://127.0.0.1:${port}`;

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: "narthex",
      client_secret: process.env.SECRET,
      grant_types: ["client_credentials", "authorization_code"],
      response_types: ["code"],
      redirect_uris: [process.env.CALLBACK],
      id_token_signed_response_alg: "ES256",
    },
  ],
  jwks: JSON.parse(process.env.JWKS),
  scopes: ["openid", "email", "profile", "chat"],
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"] },
  conformIdTokenClaims: false, // the ID token carries e-mail and name itself
  async findAccount(_, sub) {
    return {
      accountId: sub,
      claims: () => ({ sub, email: `${sub}@example.com`, email_verified: true, name: `Name of ${sub}` }),
    };
  },
  extraTokenClaims: () => ({ tenant: "acme", plan: "mid", permissions: ["chat"] }),
  features: {
    devInteractions: { enabled: true },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => "urn:narthex",
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: "chat",
        audience: "narthex-gateway",
        accessTokenTTL: 600,
        accessTokenFormat: process.env.FORMAT,
        jwt: { sign: { alg: "ES256" } },
      }),
    },
  },
});
provider.on("server_error", (_, error) => console.error(error));
provider.listen(port, "127.0.0.1", () => console.log("ready"));
