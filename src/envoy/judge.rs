//! What of a configuration can be done inside Envoy.

use keybound::config::{Config, Problem};

/// What cannot be done inside Envoy is a problem, and what means nothing there a warning.
pub(crate) fn judge(mut config: Config) -> Result<Config, Vec<Problem>> {
    let problem =
        |path: String, message: &str| Problem { path, line: None, message: message.to_owned() };
    let policies = config.rules.policies.policies.iter().enumerate();
    let by_annotation = policies.filter(|(_, it)| it.routes_may_name_it).map(|(index, _)| {
        problem(
            format!("policies[{index}].allow_route_annotation"),
            "the annotations of a route cannot be read inside Envoy: name the policy in the route's \
             DynamicModuleFilterPerRoute",
        )
    });
    let problems: Vec<_> = by_annotation.collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    let idle = config.listen.for_proxies.iter().map(|key| {
        problem((*key).to_owned(), "means nothing inside Envoy, where no proxy connects")
    });
    let idle: Vec<_> = idle.collect();
    config.warnings.extend(idle);
    Ok(config)
}

/// Each problem with its place.
pub(crate) fn in_words(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}
