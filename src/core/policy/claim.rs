//! Requirements on claims: how one is written, and how it compares with another.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use std::fmt;

/// The requirement that a claim has one of several values.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimRule {
    /// The dotted path to the claim.
    pub path: String,
    /// The values, one of which is enough.
    pub values: ClaimValues,
}

/// Values of which a claim must equal one, or be an array that contains one. There is one at least.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct ClaimValues(Vec<Value>);

impl ClaimRule {
    /// Whether every claim that meets this rule meets `other`.
    pub(super) fn asks_at_least(&self, other: &Self) -> bool {
        self.path == other.path && self.values.0.iter().all(|it| other.values.0.contains(it))
    }
}

impl ClaimValues {
    /// The values as the configuration writes them: one, or a list.
    ///
    /// # Errors
    ///
    /// What is wrong with them, for the operator.
    pub fn parse(given: Value) -> Result<Self, &'static str> {
        let values = match given {
            Value::Array(values) => values,
            one @ (Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Object(_)) => vec![one],
        };
        if values.is_empty() {
            return Err("must not be empty, or no token has such a value");
        }
        if values.iter().any(|it| it.is_array() || it.is_object() || it.is_null()) {
            return Err("expected a string, a number or a boolean, or a list of such");
        }
        Ok(Self(values))
    }

    /// Each of them.
    pub(crate) fn list(&self) -> &[Value] {
        &self.0
    }

    /// The JSON schema of the values as the configuration writes them.
    pub fn schema() -> Value {
        json!({
            "type": ["string", "number", "boolean", "array"],
            "items": { "type": ["string", "number", "boolean"] },
            "minItems": 1,
            "description": "One value, or several of which one is enough.",
        })
    }
}

impl<'de> Deserialize<'de> for ClaimValues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl fmt::Display for ClaimValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, value) in self.0.iter().enumerate() {
            let between = if place == 0 { "" } else { " or " };
            write!(f, "{between}{value}")?;
        }
        Ok(())
    }
}
