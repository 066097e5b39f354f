//! What keeps a text from being a signed JWT, in words, for an explanation.

use super::base64url;
use super::json::{self, Object};
use serde_json::Value;

/// What keeps `token` from being a signed JWT: the first fault. Never holds a part of it, but for a
/// member of its header.
pub(crate) fn in_words(token: &[u8]) -> String {
    let parts: Vec<&[u8]> = token.split(|it| *it == b'.').collect();
    let &[header, claims, signature] = &*parts else {
        return of_parts(parts.len());
    };
    let object = |part| json::object(&base64url::decode(part).ok()?).ok();
    let Ok(octets) = base64url::decode(header) else {
        return "its header is not base64url without padding".to_owned();
    };
    let Ok(header) = json::object(&octets) else {
        return "its header is not a JSON object, or a name occurs twice in it".to_owned();
    };
    if let Some(fault) = of_header(&header) {
        return fault;
    }
    if object(claims).is_none() {
        return "its claims are not a JSON object in base64url without padding, or a name occurs \
                twice in them"
            .to_owned();
    }
    if base64url::decode(signature).is_err() {
        return "its signature is not base64url without padding".to_owned();
    }
    "three parts, but not a signed JWT".to_owned()
}

fn of_parts(count: usize) -> String {
    match count {
        5 => "five parts: it is encrypted (JWE)".to_owned(),
        count => format!("{count} parts"),
    }
}

fn of_header(header: &Object) -> Option<String> {
    for name in ["crit", "b64"] {
        if header.contains_key(name) {
            return Some(format!("its header has `{name}`, which is not supported"));
        }
    }
    if !header.contains_key("alg") {
        return Some("its header has no `alg`".to_owned());
    }
    let mut texts = ["alg", "kid", "typ"].into_iter();
    let odd = texts.find_map(|it| Some((it, header.get(it).filter(|it| !it.is_string())?)));
    odd.map(|(name, value)| format!("`{name}` in its header is {}, not a string", kind(value)))
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::jws::Unverified;
    use serde_json::json;

    #[test]
    fn the_fault_is_named() {
        let token = |header: &Value, claims: &Value| {
            let part = |it: &Value| base64url::encode(it.to_string().as_bytes());
            format!("{}.{}.AA", part(header), part(claims))
        };
        let of = |header: Value| token(&header, &json!({}));
        let good = of(json!({"alg": "ES256"}));
        assert!(Unverified::parse(good.as_bytes()).is_ok());
        for (token, fault) in [
            (of(json!({"alg": "ES256", "kid": 7})), "`kid` in its header is a number"),
            (of(json!({"alg": null})), "`alg` in its header is null"),
            (of(json!({"alg": "ES256", "typ": ["JWT"]})), "`typ` in its header is a list"),
            (of(json!({"typ": "JWT"})), "no `alg`"),
            (of(json!({"alg": "ES256", "crit": []})), "`crit`"),
            (of(json!({"alg": "ES256", "b64": false})), "`b64`"),
            (of(json!(["alg"])), "its header is not a JSON object"),
            (token(&json!({"alg": "ES256"}), &json!([])), "its claims are not a JSON object"),
            (format!("{good}="), "its signature is not base64url"),
            (format!("*{good}"), "its header is not base64url"),
            ("a.b.c.d.e".to_owned(), "encrypted (JWE)"),
            ("a.b.c.d".to_owned(), "4 parts"),
        ] {
            assert!(Unverified::parse(token.as_bytes()).is_err(), "{token}");
            assert!(in_words(token.as_bytes()).contains(fault), "{token}: {fault}");
        }
    }
}
