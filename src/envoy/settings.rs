//! What Envoy's configuration says of a filter and of a route.

use crate::judge::{in_words, judge};
use crate::registry::{self, Lease};
use crate::stream::Stream;
use keybound::config::Origin;
use keybound_core::jose::json;
use serde_json::Value;
use std::borrow::Cow;
use std::sync::Arc;

/// The name that Envoy's configuration must give the filter.
const FILTER_NAME: &str = "keybound";

/// What Envoy keeps for a filter of its configuration; nothing where it only validates one.
#[derive(Debug)]
pub(crate) struct FilterConfig(Option<Lease>);

impl FilterConfig {
    /// A new stream.
    pub(crate) fn stream(&self) -> Option<Stream> {
        self.0.as_ref().map(|it| Stream::new(Arc::clone(it.endpoint())))
    }
}

/// What Envoy keeps for a route: the policy that it names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Route(String);

impl Route {
    /// The name of the policy.
    pub(crate) fn policy(&self) -> &str {
        &self.0
    }
}

/// The filter of this name and configuration, and what Envoy's operator should know of it. Where Envoy only
/// `validates`, nothing is started.
///
/// # Errors
///
/// All problems, each with its place.
pub(crate) fn filter(
    name: Option<&str>,
    config: Option<&str>,
    validates: bool,
) -> Result<(FilterConfig, Vec<String>), Vec<String>> {
    named(name)?;
    let origin = origin(config)?;
    if validates {
        let config = origin.attempt().outcome.and_then(judge).map_err(|it| in_words(&it))?;
        return Ok((FilterConfig(None), in_words(&config.warnings)));
    }
    registry::lease(&origin).map(|it| (FilterConfig(Some(it)), vec![]))
}

/// The route with this configuration.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn route(name: Option<&str>, config: Option<&str>) -> Result<Route, Vec<String>> {
    named(name)?;
    policy(config).map(Route)
}

fn named(name: Option<&str>) -> Result<(), Vec<String>> {
    if name == Some(FILTER_NAME) {
        return Ok(());
    }
    let found = name.unwrap_or_default();
    Err(vec![format!("filter_name is {found:?}: write {FILTER_NAME:?}")])
}

/// Where the configuration is: a `Struct` reaches us as a JSON object, a `StringValue` as it is.
fn origin(config: Option<&str>) -> Result<Origin, Vec<String>> {
    let text = config.ok_or_else(|| vec!["filter_config is not UTF-8".to_owned()])?;
    match unquoted(text).trim() {
        "" => Err(vec![
            "filter_config is missing: give a StringValue with the path of a configuration file, or a \
             Struct that is the configuration"
                .to_owned(),
        ]),
        json if json.starts_with('{') => Ok(Origin::Inline(in_one_order(json).into())),
        path => Ok(Origin::File(path.into())),
    }
}

/// The text itself: Envoy Gateway puts JSON into a `StringValue`, so that a text comes in quotes.
fn unquoted(text: &str) -> Cow<'_, str> {
    match json::value(text.as_bytes()) {
        Ok(Value::String(inner)) => Cow::Owned(inner),
        Ok(_) | Err(_) => Cow::Borrowed(text),
    }
}

/// The same object with its members in one order: that of a `Struct` differs each time that Envoy writes it.
fn in_one_order(text: &str) -> String {
    // What is no strict JSON is refused when it is read as a configuration.
    json::object(text.as_bytes()).map_or_else(|_| text.to_owned(), |it| Value::from(it).to_string())
}

/// The policy that the configuration of a route names, as a `StringValue` or as `{policy: NAME}`.
fn policy(config: Option<&str>) -> Result<String, Vec<String>> {
    let text = config.map(unquoted);
    let name = match text.as_deref().map(str::trim) {
        Some(json) if json.starts_with('{') => policy_in(json),
        Some(name) if !name.is_empty() => Some(name.to_owned()),
        Some(_) | None => None,
    };
    name.ok_or_else(|| {
        let how = "filter_config of a route is the name of a policy, as a StringValue or as a Struct \
                   {policy: NAME}, and nothing else";
        vec![how.to_owned()]
    })
}

fn policy_in(json: &str) -> Option<String> {
    let members = json::object(json.as_bytes()).ok()?;
    let name = members.get("policy").and_then(Value::as_str)?;
    (members.len() == 1 && !name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_struct_is_the_same_configuration_in_whatever_order_envoy_writes_it() {
        let same = origin(Some(r#"{"b": [{"d": 1, "c": 2}], "a": "x"}"#));
        assert_eq!(origin(Some(r#" {"a":"x","b":[{"c":2,"d":1}]}"#)), same);
        assert_ne!(origin(Some(r#"{"b": [{"d": 1, "c": 3}], "a": "x"}"#)), same);
        let twice = r#"{"a": 1, "a": 2}"#;
        assert_eq!(origin(Some(twice)), Ok(Origin::Inline(twice.into())), "not mended");
    }
}
