//! Responses of an introspection endpoint (RFC 7662 §2.2, RFC 9701 §5).

use crate::jose::json::{self, Object};
use crate::jose::jws::{Header, Verified};
use crate::policy::Issuer;
use crate::time::UnixTime;
use serde_json::Value;
use std::fmt;
use std::time::Duration;

/// What the issuer says about a token.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// The token is active and has these claims. Members that are null were left out: many servers
    /// write them for what they have no value of.
    Active(Object),
    /// The token is not active: expired, revoked, of another issuer, or not a token.
    Inactive,
}

/// Why a response is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadAnswer {
    /// Not a JSON object, or parsers could disagree about its contents.
    NotJson,
    /// `active` is missing, or not a boolean.
    ActiveMissing,
    /// A signed response with another `typ`.
    TypeWrong,
    /// A signed response of another issuer.
    IssuerMismatch,
    /// A signed response for another client.
    AudienceMismatch,
    /// A signed response whose `iat` is missing or not recent.
    TimeWrong,
    /// A signed response without `token_introspection`.
    StatementMissing,
}

/// The format of a response, by its media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A JSON object (RFC 7662 §2.2).
    Json,
    /// A signed JSON object (RFC 9701 §5).
    Signed,
    /// A JWT that stands in for the opaque token.
    AccessToken,
}

/// A JWT that is forwarded in place of an opaque token: a secret, redacted in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Jwt(Box<str>);

impl Statement {
    /// Parses a JSON response.
    pub fn read(body: &[u8]) -> Result<Self, BadAnswer> {
        Self::of(json::object(body).or(Err(BadAnswer::NotJson))?)
    }

    /// Checks a response that `issuer` signed for the client `client_id`, and reads it. None may be
    /// for a service that has no client id.
    pub fn read_signed(
        header: &Header,
        verified: &Verified,
        issuer: &Issuer,
        client_id: Option<&str>,
        now: UnixTime,
    ) -> Result<Self, BadAnswer> {
        if !header.is_type(SIGNED_TYPE) {
            return Err(BadAnswer::TypeWrong);
        }
        Self::from_signed(verified.claims(), issuer, client_id, now)
    }

    fn from_signed(
        claims: &Object,
        issuer: &Issuer,
        client_id: Option<&str>,
        now: UnixTime,
    ) -> Result<Self, BadAnswer> {
        if claims.get("iss").and_then(Value::as_str) != Some(&issuer.name) {
            return Err(BadAnswer::IssuerMismatch);
        }
        let is_ours = |aud| client_id.is_some_and(|it| is_for(aud, it));
        if !claims.get("aud").is_some_and(is_ours) {
            return Err(BadAnswer::AudienceMismatch);
        }
        let made = claims.get("iat").and_then(Value::as_f64).ok_or(BadAnswer::TimeWrong)?;
        let leeway = issuer.clock_leeway;
        // An older response could predate a revocation of the token.
        let earliest = seconds(now.saturating_sub(leeway.saturating_add(ANSWER_AGE)));
        if made < earliest || seconds(now.saturating_add(leeway)) < made {
            return Err(BadAnswer::TimeWrong);
        }
        let statement = claims.get("token_introspection").and_then(Value::as_object);
        Self::of(statement.cloned().ok_or(BadAnswer::StatementMissing)?)
    }

    fn of(mut members: Object) -> Result<Self, BadAnswer> {
        members.retain(|_, it| !it.is_null());
        match members.get("active") {
            Some(Value::Bool(true)) => Ok(Self::Active(members)),
            Some(Value::Bool(false)) => Ok(Self::Inactive),
            Some(_) | None => Err(BadAnswer::ActiveMissing),
        }
    }
}

/// RFC 7519 §4.1.3.
fn is_for(aud: &Value, client_id: &str) -> bool {
    match aud {
        Value::String(aud) => aud == client_id,
        Value::Array(members) => {
            members.iter().all(Value::is_string) && members.iter().any(|it| it == client_id)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "exact for ages to come")]
fn seconds(time: UnixTime) -> f64 {
    time.as_millis() as f64 / 1000.0
}

impl Form {
    /// The format that a `Content-Type` names, ignoring case and parameters.
    pub fn named(content_type: &[u8]) -> Option<Self> {
        let essence = content_type.split(|it| *it == b';').next().unwrap_or_default();
        let is = |it: &Self| essence.trim_ascii().eq_ignore_ascii_case(it.media_type().as_bytes());
        [Self::Json, Self::Signed, Self::AccessToken].into_iter().find(is)
    }

    /// The media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Signed => "application/token-introspection+jwt",
            Self::AccessToken => "application/jwt",
        }
    }
}

impl Jwt {
    /// A JWT that was verified: base64url and dots.
    pub fn verified(text: &str) -> Self {
        Self(text.into())
    }

    /// The characters, all of them ASCII.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jwt({} bytes)", self.0.len())
    }
}

impl BadAnswer {
    /// The label in logs and in the status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::ActiveMissing => "active_missing",
            Self::TypeWrong => "type_wrong",
            Self::IssuerMismatch => "issuer_mismatch",
            Self::AudienceMismatch => "audience_mismatch",
            Self::TimeWrong => "time_wrong",
            Self::StatementMissing => "statement_missing",
        }
    }
}

impl fmt::Display for BadAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotJson => "the answer is not a JSON object",
            Self::ActiveMissing => {
                "the answer does not say whether the token is active: `active` must be true or false"
            }
            Self::TypeWrong => "the signed answer has another `typ`",
            Self::IssuerMismatch => "the signed answer is that of another issuer",
            Self::AudienceMismatch => "the signed answer is for another client",
            Self::TimeWrong => "the signed answer was not made just now",
            Self::StatementMissing => "the signed answer has no `token_introspection`",
        })
    }
}

/// RFC 9701 §5: the `typ` that distinguishes signed responses from access tokens.
const SIGNED_TYPE: &str = "token-introspection+jwt";

/// The maximum age of a signed response, in addition to the leeway: it is created for each call,
/// but the issuer may have a cache in front.
const ANSWER_AGE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::examples;
    use serde_json::json;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn only_the_boolean_true_is_active() {
        let check = |body: &str, expected| {
            let found = Statement::read(body.as_bytes()).map(|it| it != Statement::Inactive);
            assert_eq!(found, expected, "{body}");
        };
        check(r#"{"active":true}"#, Ok(true));
        check(r#"{"active":false}"#, Ok(false));
        check(r#"{"active":false,"sub":7}"#, Ok(false));
        for bad in ["{}", r#"{"Active":true}"#, r#"{"error":"x"}"#] {
            check(bad, Err(BadAnswer::ActiveMissing));
        }
        for value in ["\"true\"", "1", "0", "null", "[]", "{}", "\"\""] {
            check(&format!("{{\"active\":{value}}}"), Err(BadAnswer::ActiveMissing));
        }
        for bad in [
            "",
            "true",
            "null",
            "[{\"active\":true}]",
            "{\"active\":true",
            "{\"active\":true}{}",
            "{\"active\":false,\"active\":true}",
            "<html>",
        ] {
            check(bad, Err(BadAnswer::NotJson));
        }
    }

    #[test]
    fn members_that_are_null_are_absent() {
        let answer = r#"{"active":true,"sub":"s","exp":null,"client_id":null,"cnf":{"a":null}}"#;
        let expected = json!({"active": true, "sub": "s", "cnf": {"a": null}});
        let expected = Statement::Active(expected.as_object().unwrap().clone());
        assert_eq!(Statement::read(answer.as_bytes()), Ok(expected));
    }

    #[track_caller]
    fn check_signed(edit: impl FnOnce(&mut Value), expected: Result<(), BadAnswer>) {
        let mut claims = json!({
            "iss": "https://as.example.com", "aud": "gateway", "iat": NOW,
            "token_introspection": {"active": true, "sub": "s"},
        });
        edit(&mut claims);
        let now = UnixTime::from_secs(NOW);
        let claims = claims.as_object().unwrap();
        let found = Statement::from_signed(claims, &examples::issuer(), Some("gateway"), now);
        assert_eq!(found.map(|_| ()), expected, "{claims:?}");
    }

    #[test]
    fn a_signed_answer_is_from_the_issuer_for_us_and_of_now() {
        check_signed(|_| {}, Ok(()));
        check_signed(|it| it["aud"] = json!(["other", "gateway"]), Ok(()));
        check_signed(|it| it["token_introspection"] = json!({"active": false}), Ok(()));
        for iss in [json!("https://as.example.com/"), json!("evil"), json!(null)] {
            check_signed(|it| it["iss"] = iss, Err(BadAnswer::IssuerMismatch));
        }
        for aud in [json!("other"), json!([]), json!(null), json!(["gateway", 7]), json!(7)] {
            check_signed(|it| it["aud"] = aud, Err(BadAnswer::AudienceMismatch));
        }
        for (iat, expected) in [
            (json!(NOW + 30), Ok(())),
            (json!(NOW + 31), Err(BadAnswer::TimeWrong)),
            (json!(NOW - 90), Ok(())),
            (json!(NOW - 91), Err(BadAnswer::TimeWrong)),
            (json!(1e300), Err(BadAnswer::TimeWrong)),
            (json!("0"), Err(BadAnswer::TimeWrong)),
            (json!(null), Err(BadAnswer::TimeWrong)),
        ] {
            check_signed(|it| it["iat"] = iat, expected);
        }
        for (name, bad) in [
            ("iss", BadAnswer::IssuerMismatch),
            ("aud", BadAnswer::AudienceMismatch),
            ("iat", BadAnswer::TimeWrong),
            ("token_introspection", BadAnswer::StatementMissing),
        ] {
            check_signed(|it| drop(it.as_object_mut().unwrap().remove(name)), Err(bad));
        }
    }

    #[test]
    fn what_a_signed_answer_says_stands_in_its_own_object() {
        for (statement, bad) in [
            (json!("x"), BadAnswer::StatementMissing),
            (json!(null), BadAnswer::StatementMissing),
            (json!({}), BadAnswer::ActiveMissing),
            (json!({"active": "true"}), BadAnswer::ActiveMissing),
        ] {
            check_signed(|it| it["token_introspection"] = statement, Err(bad));
        }
        let beside = |it: &mut Value| {
            it["active"] = json!(true);
            drop(it.as_object_mut().unwrap().remove("token_introspection"));
        };
        check_signed(beside, Err(BadAnswer::StatementMissing));
    }

    #[test]
    fn media_types_compare_without_case_and_parameters() {
        for (text, form) in [
            ("application/json", Some(Form::Json)),
            ("Application/JSON; charset=utf-8", Some(Form::Json)),
            (" application/json ;x", Some(Form::Json)),
            ("application/token-introspection+jwt", Some(Form::Signed)),
            ("application/jwt;charset=UTF-8", Some(Form::AccessToken)),
            ("", None),
            ("text/html", None),
            ("application/json2", None),
            ("application/problem+json", None),
            ("text/plain; application/json", None),
        ] {
            assert_eq!(Form::named(text.as_bytes()), form, "{text}");
        }
    }

    #[test]
    fn a_jwt_is_not_printed() {
        assert!(!format!("{:?}", Jwt::verified("a.b.secret")).contains("secret"));
    }
}
