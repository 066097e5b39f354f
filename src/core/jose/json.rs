//! Strict JSON for signed objects: UTF-8, one object, unique member names, bounded nesting (RFC
//! 7515 §4, RFC 7519 §4, RFC 8259).
//!
//! All JSON from clients and issuers is parsed here, because `serde_json` is more lenient than it
//! looks: it accepts a list for a struct, does not validate strings it skips, and with `RawValue`
//! treats an object with a private member name as the JSON inside it.

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// The members of a JSON object.
pub type Object = Map<String, Value>;

/// The bytes are not a JSON object, or parsers could disagree about its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotStrictJson;

/// A JSON object deserialised as `T`. A list is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectOf<T>(pub T);

/// Any JSON value, parsed as strictly as an [`Object`].
#[derive(Clone, Debug, PartialEq)]
pub struct Any(pub Value);

/// The maximum nesting depth. Real claims stay under ten; each level costs stack.
const MAX_DEPTH: usize = 32;

/// Parses an object.
///
/// A duplicate member name is refused: parsers differ in which of the two they keep.
pub fn object(bytes: &[u8]) -> Result<Object, NotStrictJson> {
    match value(bytes)? {
        Value::Object(members) => Ok(members),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(NotStrictJson)
        }
    }
}

/// Parses a value whose objects are as strict as those of [`object`].
pub fn value(bytes: &[u8]) -> Result<Value, NotStrictJson> {
    serde_json::from_slice(bytes).map(|Any(value)| value).or(Err(NotStrictJson))
}

/// Parses an object as `T`.
pub fn object_of<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> serde_json::Result<T> {
    serde_json::from_slice(bytes).map(|ObjectOf(members)| members)
}

/// Parses a list of objects, each as `T`.
pub fn objects_of<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> serde_json::Result<Vec<T>> {
    let objects: Vec<ObjectOf<T>> = serde_json::from_slice(bytes)?;
    Ok(objects.into_iter().map(|it| it.0).collect())
}

/// The members of a JSON array of strings; none for anything else. Strings without escapes are
/// borrowed.
pub fn strings(json: &str) -> Option<Vec<Cow<'_, str>>> {
    #[derive(Deserialize)]
    struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

    let array = json.starts_with('[').then_some(json)?;
    let members: Vec<Borrowed<'_>> = serde_json::from_str(array).ok()?;
    Some(members.into_iter().map(|it| it.0).collect())
}

/// The member at a dotted path. The whole path is tried as one name first, since namespaced claims
/// have names like `https://example.com/roles`.
pub(crate) fn find<'a>(object: &'a Object, path: &str) -> Option<&'a Value> {
    if let Some(value) = object.get(path) {
        return Some(value);
    }
    path.match_indices('.').find_map(|(dot, _)| {
        let (name, rest) = path.split_at_checked(dot)?;
        find(object.get(name)?.as_object()?, rest.strip_prefix('.')?)
    })
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ObjectOf<T> {
    fn deserialize<D: de::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_map(Members(PhantomData))
    }
}

/// Deserialises an object and nothing else.
struct Members<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
    type Value = ObjectOf<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, input: A) -> Result<ObjectOf<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(input)).map(ObjectOf)
    }
}

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: de::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Strict { depth: 0 }.deserialize(input).map(Self)
    }
}

/// Deserialises one value at a given depth.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn inside<E: de::Error>(self) -> Result<Self, E> {
        if self.depth < MAX_DEPTH {
            Ok(Self { depth: self.depth.saturating_add(1) })
        } else {
            Err(E::custom("nested too deeply"))
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut input: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut values = Vec::new();
        while let Some(value) = input.next_element_seed(inside)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut input: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut members = Object::new();
        while let Some(name) = input.next_key::<String>()? {
            let value = input.next_value_seed(inside)?;
            if members.insert(name, value).is_some() {
                return Err(de::Error::custom("a member stands twice"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_every_kind_of_value() {
        let found = object(br#" {"a":[1,-2,3.5,true,null,"\u00e9"],"b":{}} "#).unwrap();
        assert_eq!(Value::Object(found), json!({"a": [1, -2, 3.5, true, null, "é"], "b": {}}));
    }

    #[test]
    fn refuses_a_member_that_stands_twice_at_any_depth() {
        for odd in [r#"{"a":1,"a":1}"#, r#"{"x":{"a":1,"a":2}}"#, r#"[{"a":1}]"#] {
            assert_eq!(object(odd.as_bytes()), Err(NotStrictJson), "{odd}");
        }
        // The same name in another spelling.
        assert_eq!(object(br#"{"iss":1,"\u0069ss":2}"#), Err(NotStrictJson));
        assert_eq!(object(br#"{"x":[{"a":1,"a":2}]}"#), Err(NotStrictJson));
    }

    #[test]
    fn refuses_what_is_not_one_json_object() {
        let odd: &[&[u8]] = &[
            b"",
            b"null",
            b"\"text\"",
            b"[]",
            b"{",
            b"{}{}",
            b"{} x",
            b"{'a':1}",
            b"{\"a\":01}",
            b"{\"a\":NaN}",
            b"{\"a\":1e999}",
            b"{\"a\":1,}",
            b"{\"a\":\"\xff\"}",
            b"{\"a\":\"\\ud800\"}",
            b"{\"a\":\"\n\"}",
            b"\xef\xbb\xbf{}",
            b"{}\0",
        ];
        for odd in odd {
            assert_eq!(object(odd), Err(NotStrictJson), "{}", String::from_utf8_lossy(odd));
        }
    }

    const PRIVATE: &str = "$serde_json::private::RawValue";

    #[test]
    fn a_name_that_serde_json_keeps_for_itself_is_a_name_like_any_other() {
        let number = "$serde_json::private::Number";
        for name in [PRIVATE, number] {
            let written = json!({name: "\"text\""});
            assert_eq!(value(written.to_string().as_bytes()), Ok(written.clone()), "{name}");
            let inside = json!({"a": [written]});
            assert_eq!(value(inside.to_string().as_bytes()), Ok(inside), "{name}");
            assert_eq!(strings(&json!([{name: "\"text\""}]).to_string()), None, "{name}");
        }
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Example {
        a: String,
        b: Option<ObjectOf<Inner>>,
        c: Option<Any>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Inner {
        d: u8,
    }

    #[test]
    fn no_list_is_an_object() {
        let found: Example = object_of(br#"{"a":"x","b":{"d":1},"c":[1]}"#).unwrap();
        let expected = Example {
            a: "x".to_owned(),
            b: Some(ObjectOf(Inner { d: 1 })),
            c: Some(Any(json!([1]))),
        };
        assert_eq!(found, expected);
        for odd in [
            r#"["x",null,null]"#,
            r#"["x",{"d":1},null]"#,
            r#"{"a":"x","b":[1]}"#,
            r#"{"a":"x","a":"x"}"#,
            r#"{"a":"x"} x"#,
            r#"{"a":"x","c":"\ud800"}"#,
            r#"{"a":"x","c":{"d":1,"d":1}}"#,
            r#""x""#,
        ] {
            assert!(object_of::<Example>(odd.as_bytes()).is_err(), "{odd}");
            let list = format!("[{odd}]");
            assert!(objects_of::<Example>(list.as_bytes()).is_err(), "{list}");
        }
        assert_eq!(objects_of::<Inner>(br#"[{"d":1},{"d":2}]"#).unwrap().len(), 2);
        assert!(objects_of::<Inner>(br#"{"d":1}"#).is_err());
    }

    #[test]
    fn a_dotted_path_reaches_inside() {
        let claims = json!({
            "sub": "s", "cnf": {"x5t#S256": "t"}, "a": {"b": {"c": 1}, "b.c": 2},
            "https://example.com/roles": ["r"],
        });
        let claims = claims.as_object().unwrap();
        assert_eq!(find(claims, "sub"), Some(&json!("s")));
        assert_eq!(find(claims, "cnf.x5t#S256"), Some(&json!("t")));
        assert_eq!(find(claims, "https://example.com/roles"), Some(&json!(["r"])));
        assert_eq!(find(claims, "a.b.c"), Some(&json!(2)), "the longest name first");
        for absent in ["", ".", "sub.", ".sub", "cnf.", "a.b.d", "sub.x", "a..b"] {
            assert_eq!(find(claims, absent), None, "{absent}");
        }
    }

    #[test]
    fn nesting_ends_at_its_bound() {
        let nested = |depth: usize| {
            let arrays = depth - 1;
            format!("{{\"a\":{}{}}}", "[".repeat(arrays), "]".repeat(arrays))
        };
        assert!(object(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert_eq!(object(nested(MAX_DEPTH + 1).as_bytes()), Err(NotStrictJson));
        assert_eq!(object(nested(10_000).as_bytes()), Err(NotStrictJson));
    }
}
