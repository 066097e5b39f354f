//! How a client authenticates at the introspection endpoint (RFC 7662 §2.1), and what it sends for
//! that.

use super::BadEndpoint;
use super::assertion::{AssertionKey, Claims, NotSigned};
use super::form::encoded;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, header};
use keybound_core::UnixTime;
use std::fmt;

/// How this service authenticates. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// With this secret in a header (RFC 6749 §2.3.1).
    SecretBasic(String),
    /// With this secret in the body (RFC 6749 §2.3.1).
    SecretPost(String),
    /// With a JWT that this key signs (RFC 7523 §2.2).
    PrivateKeyJwt(AssertionKey),
    /// With the certificate of the connection (RFC 8705 §2).
    TlsClientAuth,
    /// Not at all.
    None,
}

/// The certificate that is shown on connections: PEM of its chain and its key. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity(pub Vec<u8>);

/// The client, and the server that it authenticates to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parties<'a> {
    pub(super) client_id: Option<&'a str>,
    /// The server, by its issuer identifier.
    pub(super) issuer: &'a str,
    /// The algorithms for assertions that it accepts; empty where it does not say.
    pub(super) algorithms: &'a [String],
    pub(super) now: UnixTime,
}

impl ClientAuthentication {
    /// Its name in metadata and in the configuration (RFC 7591 §2, RFC 8705 §2.1.1).
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SecretBasic(_) => "client_secret_basic",
            Self::SecretPost(_) => "client_secret_post",
            Self::PrivateKeyJwt(_) => "private_key_jwt",
            Self::TlsClientAuth => "tls_client_auth",
            Self::None => "none",
        }
    }

    /// Whether a server that supports the methods `supported` knows this one. A certificate is sent
    /// in the same way whoever issued it.
    pub(super) fn is_among(&self, supported: &[String]) -> bool {
        let self_signed = (*self == Self::TlsClientAuth).then_some("self_signed_tls_client_auth");
        supported.iter().any(|it| it == self.name() || Some(it.as_str()) == self_signed)
    }

    /// Adds the credentials to a request with these `headers` and this `form`.
    pub(super) fn add_to(
        &self,
        headers: &mut HeaderMap,
        form: &mut String,
        parties: Parties<'_>,
    ) -> Result<(), NotSigned> {
        let mut field = |name: &str, value: &str| {
            form.push_str(name);
            form.push_str(&encoded(value.as_bytes()));
        };
        let client_id = parties.client_id.unwrap_or_default();
        match self {
            Self::SecretBasic(secret) => {
                let value = basic(client_id, secret).or(Err(NotSigned))?;
                headers.insert(header::AUTHORIZATION, value);
                return Ok(());
            }
            Self::SecretPost(secret) => field("&client_secret=", secret),
            Self::PrivateKeyJwt(key) => {
                // The issuer identifier alone: an assertion for the URL of an endpoint could be
                // taken to another server that names this URL as its own (FAPI 2.0 §5.3.3.1).
                let (audience, now) = (parties.issuer, parties.now);
                let claims = Claims { client_id, audience, now };
                field("&client_assertion_type=", JWT_BEARER);
                field("&client_assertion=", &key.assertion(claims, parties.algorithms)?);
            }
            Self::TlsClientAuth | Self::None => (),
        }
        // RFC 8705 §2: the server needs it to find the client of a certificate.
        if let Some(client_id) = parties.client_id {
            field("&client_id=", client_id);
        }
        Ok(())
    }

    /// Checks that what is sent can be sent.
    pub(super) fn check(&self, client_id: Option<&str>) -> Result<(), BadEndpoint> {
        match self {
            Self::SecretBasic(secret) => basic(client_id.unwrap_or_default(), secret).map(drop),
            Self::SecretPost(_) | Self::PrivateKeyJwt(_) | Self::TlsClientAuth | Self::None => {
                Ok(())
            }
        }
    }
}

/// RFC 6749 §2.3.1: both are encoded as in a form before they are joined.
fn basic(client_id: &str, secret: &str) -> Result<HeaderValue, BadEndpoint> {
    let [client_id, secret] = [client_id, secret].map(|it| encoded(it.as_bytes()));
    let value = format!("Basic {}", STANDARD.encode(format!("{client_id}:{secret}")));
    let mut value = HeaderValue::try_from(value).or(Err(BadEndpoint::SecretUnusable))?;
    value.set_sensitive(true);
    Ok(value)
}

impl fmt::Debug for ClientAuthentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// RFC 7523 §2.2.
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> [ClientAuthentication; 5] {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        [
            ClientAuthentication::SecretBasic("hidden".to_owned()),
            ClientAuthentication::SecretPost("hidden".to_owned()),
            ClientAuthentication::PrivateKeyJwt(
                AssertionKey::from_pem(pem.as_bytes(), Some("hidden".to_owned())).unwrap(),
            ),
            ClientAuthentication::TlsClientAuth,
            ClientAuthentication::None,
        ]
    }

    fn sent(authentication: &ClientAuthentication, client_id: Option<&str>) -> (HeaderMap, String) {
        let (mut headers, mut form) = (HeaderMap::new(), String::from("token=t"));
        let parties = Parties {
            client_id,
            issuer: "https://as.example.com",
            algorithms: &[],
            now: UnixTime::from_secs(0),
        };
        authentication.add_to(&mut headers, &mut form, parties).unwrap();
        (headers, form)
    }

    #[test]
    fn each_method_sends_its_credentials_and_no_others() {
        let [basic, post, jwt, certificate, none] = all();
        let (headers, form) = sent(&basic, Some("gate way"));
        assert!(headers[header::AUTHORIZATION].is_sensitive());
        assert_eq!((headers.len(), form.as_str()), (1, "token=t"));
        for (authentication, client_id, expected) in [
            (&post, Some("gate way"), "token=t&client_secret=hidden&client_id=gate+way"),
            (&certificate, Some("gate way"), "token=t&client_id=gate+way"),
            (&none, Some("gate way"), "token=t&client_id=gate+way"),
            (&none, None, "token=t"),
        ] {
            let (headers, form) = sent(authentication, client_id);
            assert_eq!((headers.len(), form.as_str()), (0, expected), "{authentication:?}");
        }
        let (headers, form) = sent(&jwt, Some("gate way"));
        let expected = "token=t&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3A\
                        client-assertion-type%3Ajwt-bearer&client_assertion=ey";
        assert!(form.starts_with(expected) && form.ends_with("&client_id=gate+way"), "{form}");
        assert!(headers.is_empty());
    }

    #[test]
    fn credentials_are_encoded_before_they_are_joined() {
        let found = basic("a:b", "c d").unwrap();
        assert_eq!(found, format!("Basic {}", STANDARD.encode("a%3Ab:c+d")));
        assert!(found.is_sensitive());
    }

    #[test]
    fn a_server_knows_a_method_by_its_name() {
        let supported = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            all().map(|it| it.is_among(&names))
        };
        assert_eq!(supported(&[]), [false; 5]);
        let names = ["client_secret_basic", "private_key_jwt"];
        assert_eq!(supported(&names), [true, false, true, false, false]);
        assert_eq!(supported(&["tls_client_auth"]), [false, false, false, true, false]);
        assert!(supported(&["self_signed_tls_client_auth"])[3]);
        assert_eq!(supported(&["client_secret_post", "none"])[1..], [true, false, false, true]);
    }

    #[test]
    fn no_credentials_are_printed() {
        for authentication in all() {
            assert_eq!(format!("{authentication:?}"), authentication.name());
        }
        let printed = format!("{:?}", Identity(b"hidden".to_vec()));
        assert!(!printed.contains("hidden") && !printed.contains("104"), "{printed}");
    }
}
