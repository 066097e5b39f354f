//! The decision of keybound, as a library: whether a request with a sender-constrained OAuth access
//! token is allowed.
//!
//! An access token whose `cnf` names a key is of no use to who steals it: the caller must prove that it
//! holds that key, by the client certificate of its mutual-TLS connection ([RFC 8705]) or by a DPoP
//! proof ([RFC 9449]). This crate validates the token, enforces the binding, and says what to answer.
//! It has no clock, does no I/O and needs no async runtime: the time is a parameter, and all else comes
//! from one trait, [`Sources`].
//!
//! # A certificate-bound request, decided
//!
//! ```
//! use aws_lc_rs::{rand::SystemRandom, signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair}};
//! use keybound_core::jose::{KeySet, Thumbprint, base64url::encode};
//! use keybound_core::oauth::NonceKeys;
//! use keybound_core::policy::{Issuer, IssuerId, Policy, PolicySet, SenderConstraint};
//! use keybound_core::{Answer, Denial, Evidence, Field, Fixed, PeerCertificate, Request, Rules, Target};
//! use keybound_core::{UnixTime, check};
//! use std::{pin::pin, sync::Arc, task::{Context, Poll, Waker}};
//!
//! // An authorization server with one key, which binds a token to a client certificate.
//! let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
//! let (x, y) = key.public_key().as_ref()[1..].split_at(32);
//! let jwks = format!(
//!     r#"{{"keys": [{{"kty": "EC", "crv": "P-256", "kid": "1", "x": "{}", "y": "{}"}}]}}"#,
//!     encode(x), encode(y),
//! );
//! let certificate = Thumbprint::of(b"the DER of the client's certificate");
//! let header = encode(br#"{"alg": "ES256", "typ": "at+jwt", "kid": "1"}"#);
//! let claims = encode(format!(
//!     r#"{{"iss": "https://as.example.com", "aud": "https://api.example.com", "sub": "alice",
//!          "client_id": "app", "jti": "1", "iat": 1800000000, "exp": 1800000300,
//!          "cnf": {{"x5t#S256": "{}"}}}}"#,
//!     certificate.to_base64url(),
//! ).as_bytes());
//! let signature = key.sign(&SystemRandom::new(), format!("{header}.{claims}").as_bytes())?;
//! let token = format!("Bearer {header}.{claims}.{}", encode(signature.as_ref()));
//!
//! // A resource server that accepts such tokens from it.
//! let issuer = Issuer::new("https://as.example.com", "https://api.example.com");
//! let mut policy = Policy::new("payments", SenderConstraint::Certificate);
//! policy.issuers = vec![IssuerId(0)];
//! let policies = PolicySet::new([issuer], [policy]);
//! let rules = Rules::new(policies, Arc::new(NonceKeys::from_octets(&[0; 32])));
//! let sources = Fixed::new([Arc::new(KeySet::parse(jwks.as_bytes()).unwrap())]);
//!
//! // Decides a request whose TLS connection shows this certificate. With keys at hand, a check ends at
//! // its first poll.
//! let request = |shown: Thumbprint| Request {
//!     target: Target { method: "GET", scheme: "https", authority: "api.example.com", path: "/" },
//!     authorization: Field::One(token.as_bytes()),
//!     evidence: Evidence {
//!         peer_certificate: PeerCertificate::Sha256(shown),
//!         ..Evidence::default()
//!     },
//!     ..Request::default()
//! };
//! let decide = |request: &Request<'_>| {
//!     let check = pin!(check(&rules, &sources, request, UnixTime::from_secs(1_800_000_100)));
//!     let Poll::Ready(verdict) = check.poll(&mut Context::from_waker(Waker::noop())) else {
//!         unreachable!("nothing waits")
//!     };
//!     verdict
//! };
//!
//! assert_eq!(decide(&request(certificate)).outcome, Ok(()));
//! let stolen = request(Thumbprint::of(b"another certificate"));
//! let verdict = decide(&stolen);
//! assert_eq!(verdict.outcome, Err(Denial::CertificateMismatch));
//! let answer = Answer::of(&verdict, &rules.policies, Some(&stolen));
//! assert!(matches!(answer, Answer::Deny { status: 401, .. }));
//! # Ok::<(), aws_lc_rs::error::Unspecified>(())
//! ```
//!
//! # The map, in reading order
//!
//! 1. [`Request`]: what is checked, borrowed from whatever carried it. Front ends fill it.
//! 2. [`check`]: the whole decision, step by step; it is one page of code.
//! 3. [`policy`]: what is demanded, and which policy a request falls under, however it is spelled.
//! 4. [`oauth`]: tokens, their confirmation, and proofs; [`jose`]: signatures, keys, thumbprints.
//! 5. [`client_certificate`]: how the certificate of a client reaches us, and how it is read.
//! 6. [`Sources`]: the ways out. [`Fixed`] is ready-made for keys that do not change.
//! 7. [`Verdict`] and [`Answer`]: how it ended, and what is sent back. [`Denial`] is the one table of
//!    reasons, [`facts`] the one list of what is told about a check, [`Explanation`] its steps.
//!
//! # Glossary
//!
//! - *Sender-constrained token*: one that names a key in `cnf`, which its sender must prove to hold.
//! - *Confirmation*: what `cnf` says: `x5t#S256`, the SHA-256 of a certificate, or `jkt`, the thumbprint
//!   of a DPoP key ([RFC 7638]).
//! - *Proof*: a DPoP proof, a JWT that the client signs for one request. It is used up by it.
//! - *Evidence*: all that may tell the client's certificate; the configured [`client_certificate::Source`]
//!   says which of it counts.
//! - *Policy*: what one class of requests must show. *Issuer*: an authorization server whose tokens are
//!   accepted; what they are held to is part of it.
//! - *Introspection*: asking the issuer about a token ([RFC 7662]).
//! - *Denial*: a reason to refuse, of a closed set; *detail*: what lies behind it, for the operator alone.
//!
//! # What holds
//!
//! - A claim is read only after the signature of its token was verified.
//! - A key is looked up among those of the token's own issuer, never across issuers.
//! - A proof is recorded last: a request that is refused for another reason does not use it up.
//! - What cannot be checked is refused.
//! - A check may be started on one thread and end on another, and may be dropped at any time.
//!
//! [RFC 7638]: https://www.rfc-editor.org/rfc/rfc7638
//! [RFC 7662]: https://www.rfc-editor.org/rfc/rfc7662
//! [RFC 8705]: https://www.rfc-editor.org/rfc/rfc8705
//! [RFC 9449]: https://www.rfc-editor.org/rfc/rfc9449

pub mod client_certificate;
pub mod facts;
pub mod jose;
pub mod oauth;
pub mod percent;
pub mod policy;
pub mod words;

mod answer;
mod check;
mod denial;
mod explanation;
mod grpc_timeout;
mod mismatches;
mod request;
mod resource;
mod sources;
mod time;
mod uri;

pub use answer::{Answer, Header, Metadata};
pub use check::{
    Diagnosis, Facts, Proved, Rules, Seen, SeenJwt, Verdict, check, check_into, diagnose, signature,
};
pub use denial::{Denial, Detail, Fault, OAuthError, Refusal};
pub use explanation::{Explanation, Finding, Mark, Redacted, Step};
pub use grpc_timeout::GRPC_TIMEOUT;
pub use mismatches::Mismatch;
pub use request::{
    Annotation, Evidence, Field, Overrides, PeerCertificate, Request, Target, is_separator,
    reads_as,
};
pub use resource::ResourceMetadata;
pub use sources::{
    Fixed, Introspected, Keys, Newer, NotRecorded, Sources, Standing, Turns, Unconfirmed, Use,
    VerifiedToken, Waiting,
};
pub use time::UnixTime;
pub use uri::{HttpUri, NotHttpUri, Origin};
