//! One call of an introspection endpoint: its request, and how its response is judged (RFC 7662 §2,
//! RFC 9701 §4).

use super::answers::{Finding, Introspected, Reading, Refused, Said};
use super::authentication::Parties;
use super::endpoint::{Endpoint, Place};
use super::failure::Failure;
use super::form::encoded;
use super::rules::IntrospectionRules;
use super::{BadEndpoint, Terms, endpoint};
use crate::clock::Clock;
use crate::state::http::{self, Client, Credentials, Limits, Reply};
use crate::state::jwks::IssuerKeys;
use ::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use keybound_core::jose::SignedBy;
use keybound_core::jose::json::Object;
use keybound_core::jose::{Header, Unverified, Verified};
use keybound_core::oauth::Token;
use keybound_core::oauth::{AccessToken, Audience};
use keybound_core::oauth::{Form, Jwt, Statement};
use keybound_core::policy::{ClaimsFrom, Issuer};
use keybound_core::signature;
use keybound_core::{Denial, Explanation, UnixTime};
use reqwest::Request;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

/// A client of one issuer's endpoint.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) issuer: Arc<Issuer>,
    pub(super) rules: IntrospectionRules,
    pub(super) ca: Option<Vec<u8>>,
    pub(super) keys: Arc<IssuerKeys>,
    pub(super) selection: Arc<[String]>,
    pub(super) clock: Arc<dyn Clock>,
    place: watch::Receiver<Place>,
    client: Client,
    /// Whether the server sends a JWT only if nothing but that is accepted.
    asks_for_jwt_alone: AtomicBool,
}

/// A request about a token. It holds the token, and so has no `Debug`.
pub(super) struct Question {
    form: String,
    /// The token is a JWT with a verified signature, of which only the state is needed.
    signed: bool,
}

impl Caller {
    /// A client on these `terms`, and the task that discovers its endpoint, if one is needed.
    pub(super) fn new(
        terms: &Terms<'_>,
        clock: &Arc<dyn Clock>,
    ) -> Result<(Self, Option<endpoint::Seeker>), BadEndpoint> {
        let Terms { issuer, rules, ca, allow_http, keys, selection } = *terms;
        rules.authentication.check(rules.client_id.as_deref())?;
        let identity = rules.identity.as_ref().map(|it| &*it.0);
        let credentials = Credentials { ca, identity };
        let client = Client::new(credentials).map_err(BadEndpoint::Credentials)?;
        let client = client.allowing_http(allow_http);
        let (place, seeker) = endpoint::of(issuer, rules, &client)?;
        let caller = Self {
            issuer: Arc::clone(issuer),
            rules: rules.clone(),
            ca: ca.map(<[u8]>::to_vec),
            keys: Arc::clone(keys),
            selection: Arc::clone(selection),
            clock: Arc::clone(clock),
            place,
            client,
            asks_for_jwt_alone: AtomicBool::new(false),
        };
        Ok((caller, seeker))
    }

    /// Whether it asks other machines over plain `http`.
    pub(super) const fn allows_http(&self) -> bool {
        self.client.allows_http()
    }

    /// The request about `token`, without credentials.
    pub(super) fn question(token: Token<'_>) -> Question {
        let encoded = encoded(token.as_bytes());
        let form = format!("token={encoded}&token_type_hint=access_token");
        Question { form, signed: token.looks_like_jwt() }
    }

    /// Calls the endpoint, which was found, and returns by the `deadline`.
    pub(super) async fn ask(
        &self,
        question: Question,
        deadline: Instant,
    ) -> Result<Finding, Failure> {
        if !self.forwards(question.signed) {
            return self.ask_accepting(ACCEPT, &question, deadline).await;
        }
        let alone = self.asks_for_jwt_alone.load(Ordering::Relaxed);
        let [first, other] =
            if alone { [ACCEPT_JWT_ALONE, ACCEPT_JWT] } else { [ACCEPT_JWT, ACCEPT_JWT_ALONE] };
        let said = self.ask_accepting(first, &question, deadline).await;
        if !matches!(said, Err(Failure::JwtMissing)) {
            return said;
        }
        // Keycloak sends a JWT only if the header is exactly its media type, and servers of RFC 9701
        // only if the header names theirs.
        match self.ask_accepting(other, &question, deadline).await {
            Ok(found) => {
                self.asks_for_jwt_alone.store(!alone, Ordering::Relaxed);
                Ok(found)
            }
            Err(_) => said,
        }
    }

    async fn ask_accepting(
        &self,
        accept: &'static str,
        question: &Question,
        deadline: Instant,
    ) -> Result<Finding, Failure> {
        let request = self.request(self.endpoint()?, accept, question)?;
        let signed = question.signed;
        let left = deadline.saturating_duration_since(Instant::now());
        let limits = Limits { bytes: MAX_BYTES, deadline: left };
        let reply = self.client.send(request, limits).await.map_err(Failure::Http)?;
        let reading = timeout_at(deadline, self.read(&reply, signed));
        reading.await.unwrap_or(Err(Failure::KeysLate))
    }

    /// Waits until the endpoint is known, or known not to be there.
    pub(super) async fn is_found(&self) {
        let mut place = self.place.clone();
        // An error means that the discovery task ended with its runtime.
        drop(place.wait_for(|it| *it != Place::Sought).await);
    }

    fn endpoint(&self) -> Result<Endpoint, Failure> {
        match &*self.place.borrow() {
            Place::At(endpoint) => Ok(endpoint.clone()),
            Place::Sought | Place::Unknown => Err(Failure::EndpointUnknown),
        }
    }

    fn request(
        &self,
        endpoint: Endpoint,
        accept: &'static str,
        question: &Question,
    ) -> Result<Request, Failure> {
        let mut request = Request::new(Method::POST, endpoint.url);
        let headers = request.headers_mut();
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(FORM));
        let parties = Parties {
            client_id: self.rules.client_id.as_deref(),
            issuer: &self.issuer.name,
            algorithms: &endpoint.algorithms,
            now: self.now(),
        };
        let (authentication, mut form) = (&self.rules.authentication, question.form.clone());
        authentication.add_to(headers, &mut form, parties).or(Err(Failure::NotSigned))?;
        *request.body_mut() = Some(form.into());
        Ok(request)
    }

    /// Whether to forward a JWT, which is done for tokens that do not say everything by themselves.
    fn forwards(&self, signed: bool) -> bool {
        self.rules.forward_jwt && (!signed || self.issuer.claims_from == ClaimsFrom::Answer)
    }

    async fn read(&self, reply: &Reply, signed: bool) -> Result<Finding, Failure> {
        match reply.status {
            StatusCode::OK => {}
            // How servers that were asked for a JWT report an inactive token.
            StatusCode::NO_CONTENT if self.forwards(signed) => return Ok(INACTIVE),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                return Err(Failure::CredentialsRefused(status));
            }
            StatusCode::TOO_MANY_REQUESTS => {
                return Err(Failure::Limited(retry_after(&reply.headers)));
            }
            status => return Err(Failure::Http(http::Failure::Status(status))),
        }
        let form = reply.headers.get(header::CONTENT_TYPE);
        let named = form.and_then(|it| Form::named(it.as_bytes()));
        match named.ok_or_else(|| Failure::FormUnknown(media_type(form)))? {
            Form::Json => {
                let statement = Statement::read(&reply.body).map_err(Failure::BadAnswer)?;
                self.stated(statement, Said::statement(&reply.body), signed).await
            }
            Form::Signed => self.read_signed(&reply.body, signed).await,
            Form::AccessToken => self.read_access_token(&reply.body, signed).await,
        }
    }

    /// RFC 9701 §5.
    async fn read_signed(&self, body: &[u8], signed: bool) -> Result<Finding, Failure> {
        let (header, verified, proof) = self.verified(body).await?;
        let (issuer, client_id) = (&*self.issuer, self.rules.client_id.as_deref());
        let statement = Statement::read_signed(&header, &verified, issuer, client_id, self.now())
            .map_err(Failure::BadAnswer)?;
        let said = match &statement {
            Statement::Active(claims) => serde_json::to_vec(claims).unwrap_or_default(),
            Statement::Inactive => vec![],
        };
        self.found(statement, Said::statement(&said), Some(proof), signed)
    }

    /// A plain answer. A JWT that the token stands for may be a member of it, as in Keycloak's.
    async fn stated(
        &self,
        statement: Statement,
        said: Said,
        signed: bool,
    ) -> Result<Finding, Failure> {
        if let Statement::Active(claims) = &statement
            && let Some(jwt) = claims.get(JWT).filter(|_| self.forwards(signed))
        {
            let jwt = jwt.as_str().unwrap_or_default();
            return self.read_jwt(jwt.as_bytes(), Some((claims, said)), signed).await;
        }
        self.found(statement, said, None, signed)
    }

    async fn read_access_token(&self, body: &[u8], signed: bool) -> Result<Finding, Failure> {
        self.read_jwt(body, None, signed).await
    }

    /// The JWT that the token stands for, checked like one that a client sends, with the claims of
    /// the answer around it, if there is one.
    async fn read_jwt(
        &self,
        jwt: &[u8],
        around: Option<(&Object, Said)>,
        signed: bool,
    ) -> Result<Finding, Failure> {
        let (header, verified, proof) = self.verified(jwt).await?;
        let mut explanation = Explanation::kept();
        let (issuer, selection) = (&self.issuer, &self.selection);
        // Of an opaque token, nothing but its JWT says everything.
        let from = if signed { issuer.claims_from } else { ClaimsFrom::Token };
        let token =
            AccessToken::read(&header, &verified, issuer, from, selection, &mut explanation);
        let token = token.and_then(|token| match &around {
            None => Ok(token),
            Some((claims, _)) => {
                let audience = Audience::IfSaid;
                AccessToken::introspected(claims, issuer, selection, audience, &mut explanation)
                    .and_then(|it| token.joined(&it, &mut explanation))
            }
        });
        let token = token.map_err(|it| refused(it, &explanation));
        match token {
            // The issuer, not the client, chose this JWT.
            Err(Refused { denial: Denial::TokenTypeWrong, why }) => {
                let words = why.as_deref().unwrap_or_default().to_owned();
                Err(Failure::JwtRefused(Denial::TokenTypeWrong, words))
            }
            token => {
                let alone = || proof.jwt.clone().map_or(Said::Much, Said::AccessToken);
                let said = around.map_or_else(alone, |(_, said)| said);
                Ok(self.judged(token, said, Some(proof), signed))
            }
        }
    }

    /// Whether a response was read under the settings in force.
    pub(super) fn reads_as(&self, was: &Introspected) -> bool {
        let issuer = &was.token.issuer;
        let same = Arc::ptr_eq(issuer, &self.issuer) || *issuer == self.issuer;
        same && was.reading == self.reading() && was.token.claims.are_selected_by(&self.selection)
    }

    const fn reading(&self) -> Reading {
        let IntrospectionRules { forward_jwt, allow_missing_audience, .. } = self.rules;
        Reading { forward_jwt, allow_missing_audience }
    }

    /// The result of a response that was read under other rules; `None` if a new call is needed.
    pub(super) async fn read_again(&self, was: &Introspected, signed: bool) -> Option<Finding> {
        match &was.said {
            Said::Statement(words) => {
                let allowed = |it: &SignedBy| self.issuer.algorithms.contains(&it.algorithm);
                if !was.signed_by.as_ref().is_none_or(allowed) {
                    return None;
                }
                let statement = Statement::read(words).ok()?;
                if let Statement::Active(claims) = &statement
                    && self.forwards(signed)
                    && claims.contains_key(JWT)
                {
                    let reading = self.stated(statement, was.said.clone(), signed);
                    return timeout(self.rules.upkeep.timeout, reading).await.ok()?.ok();
                }
                let proof =
                    |it: &SignedBy| Proof { signed_by: it.clone(), jwt: was.forward.clone() };
                let proof = was.signed_by.as_ref().map(proof);
                self.found(statement, was.said.clone(), proof, signed).ok()
            }
            Said::AccessToken(jwt) => {
                let reading = self.read_access_token(jwt.as_str().as_bytes(), signed);
                timeout(self.rules.upkeep.timeout, reading).await.ok()?.ok()
            }
            Said::Much => None,
        }
    }

    async fn verified(&self, body: &[u8]) -> Result<(Header, Verified, Proof), Failure> {
        let text = std::str::from_utf8(body.trim_ascii()).unwrap_or_default();
        let malformed =
            || Failure::JwtRefused(Denial::TokenMalformed, "not a signed JWT".to_owned());
        let jws = Unverified::parse(text.as_bytes()).ok().ok_or_else(malformed)?;
        let header = jws.header().clone();
        // Longer than the time left, so the waiting check gives up first.
        let keys = self.keys.within(self.rules.upkeep.timeout);
        let mut explanation = Explanation::kept();
        let verified = signature::verify(&keys, jws, &self.issuer, &mut explanation).await;
        let (verified, signed_by) =
            verified.map_err(|it| Failure::JwtRefused(it.refusal.denial, fault(&explanation)))?;
        let jwt = Some(Arc::new(Jwt::verified(text)));
        Ok((header, verified, Proof { signed_by, jwt }))
    }

    fn found(
        &self,
        statement: Statement,
        said: Said,
        proof: Option<Proof>,
        signed: bool,
    ) -> Result<Finding, Failure> {
        let Statement::Active(claims) = statement else { return Ok(INACTIVE) };
        // An upstream that expects a JWT must not get an opaque token.
        let jwt = proof.as_ref().and_then(|it| it.jwt.as_ref());
        if jwt.is_none() && self.forwards(signed) {
            return Err(Failure::JwtMissing);
        }
        let may_lack = self.rules.allow_missing_audience;
        let audience = Audience::in_answer(signed, self.issuer.claims_from, may_lack);
        let mut explanation = Explanation::kept();
        let (issuer, selection) = (&self.issuer, &self.selection);
        let token =
            AccessToken::introspected(&claims, issuer, selection, audience, &mut explanation);
        Ok(self.judged(token.map_err(|it| refused(it, &explanation)), said, proof, signed))
    }

    fn judged(
        &self,
        token: Result<AccessToken, Refused>,
        said: Said,
        proof: Option<Proof>,
        signed: bool,
    ) -> Finding {
        let mut explanation = Explanation::kept();
        let token = match token {
            // The response said that it was active, and an expired token stays expired.
            Ok(token) if token.admit(self.now(), &mut explanation) == Err(Denial::TokenExpired) => {
                return Finding::Refused(refused(Denial::TokenExpired, &explanation));
            }
            Ok(token) => Arc::new(token),
            Err(refused) => return Finding::Refused(refused),
        };
        let (signed_by, jwt) = proof.map(|it| (it.signed_by, it.jwt)).unzip();
        let forward = jwt.flatten().filter(|_| self.forwards(signed));
        let reading = self.reading();
        Finding::Active(Introspected { token, forward, reading, signed_by, said })
    }

    fn now(&self) -> UnixTime {
        self.clock.now()
    }
}

const INACTIVE: Finding = Finding::Refused(Refused { denial: Denial::TokenInactive, why: None });

/// Why a token is not accepted by what its issuer says.
fn refused(denial: Denial, explanation: &Explanation) -> Refused {
    Refused { denial, why: Some(fault(explanation).into()) }
}

/// What was found wanting in a response, for the operator.
fn fault(explanation: &Explanation) -> String {
    shortened(&explanation.fault().map(ToString::to_string).unwrap_or_default())
}

/// The media type of a response, in words.
fn media_type(header: Option<&HeaderValue>) -> String {
    match header {
        None => "its media type is missing".to_owned(),
        Some(value) => {
            let text = String::from_utf8_lossy(value.as_bytes());
            format!("its media type is {:?}", shortened(&text))
        }
    }
}

/// As much of what the issuer sent as operators are shown.
fn shortened(text: &str) -> String {
    text.chars().filter(|it| !it.is_control()).take(SHOWN_CHARS).collect()
}

/// The most characters of a text of the issuer's in a message.
const SHOWN_CHARS: usize = 300;

/// The signature of a response.
struct Proof {
    signed_by: SignedBy,
    /// The JWT; `None` if it was not kept.
    jwt: Option<Arc<Jwt>>,
}

/// RFC 9110 §10.2.3, in seconds. A date is ignored, since the clocks may differ.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The member of an answer that holds a JWT (Keycloak).
const JWT: &str = "jwt";

const FORM: &str = "application/x-www-form-urlencoded";

const ACCEPT: &str = "application/json, application/token-introspection+jwt;q=0.9";

/// JSON is accepted too, since inactive tokens are reported in it.
const ACCEPT_JWT: &str =
    "application/jwt, application/token-introspection+jwt;q=0.9, application/json;q=0.1";

const ACCEPT_JWT_ALONE: &str = "application/jwt";

/// The longest response that is read, many times the size of a token.
const MAX_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_seconds() {
        for (text, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("-1", None),
            ("1.5", None),
            ("", None),
            ("Fri, 31 Dec 1999 23:59:59 GMT", None),
        ] {
            let headers = [(header::RETRY_AFTER, HeaderValue::from_static(text))];
            let found = retry_after(&headers.into_iter().collect());
            assert_eq!(found, seconds.map(Duration::from_secs), "{text:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
