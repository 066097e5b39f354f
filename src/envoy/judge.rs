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
    // It is about the proxy that waits for an answer, and here none does.
    config.warnings.retain(|it| it.path != "limits.check_deadline");
    let idle = config.listen.for_proxies.iter().map(|key| {
        problem(
            (*key).to_owned(),
            "means nothing inside Envoy, where no proxy connects: leave it out, unless the file is for \
             `keybound serve` as well",
        )
    });
    let idle: Vec<_> = idle.collect();
    config.warnings.extend(idle);
    Ok(config)
}

/// Each problem with its place.
pub(crate) fn in_words(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use keybound::config::Origin;

    fn config(more: &str, policy: &str) -> Config {
        let text = format!(
            "{more}\nissuers: [{{issuer: 'https://as.test', audiences: [a]}}]\n\
             policies: [{{name: payments, sender_constraint: certificate{policy}}}]\n"
        );
        Origin::Inline(text.into()).attempt().outcome.unwrap()
    }

    fn places(problems: &[Problem]) -> Vec<&str> {
        problems.iter().map(|it| &*it.path).collect()
    }

    #[test]
    fn a_policy_that_only_an_annotation_names_cannot_be_had() {
        assert!(judge(config("", "")).is_ok());
        let problems = judge(config("", ", allow_route_annotation: true")).unwrap_err();
        assert_eq!(places(&problems), ["policies[0].allow_route_annotation"]);
        assert!(problems[0].message.contains("DynamicModuleFilterPerRoute"));
    }

    #[test]
    fn what_is_for_proxies_alone_is_named_and_what_is_said_of_their_patience_is_not() {
        let listen = "listen: {ext_authz: '127.0.0.1:1', forward_auth: '127.0.0.1:2', admin: '127.0.0.1:3'}\n\
                      forward_auth: {flavour: nginx}\nlimits: {check_deadline: 900ms}";
        let asked = config(listen, "");
        assert!(places(&asked.warnings).contains(&"limits.check_deadline"));
        let before = asked.warnings.len();
        let judged = judge(asked).unwrap();
        let places = places(&judged.warnings);
        let own = ["listen.ext_authz", "listen.forward_auth", "forward_auth"];
        assert_eq!(places[places.len() - own.len()..], own);
        assert!(!places.contains(&"limits.check_deadline"));
        assert_eq!(places.len(), before - 1 + own.len());
        assert!(judge(config("listen: {admin: '127.0.0.1:3'}", "")).unwrap().warnings.is_empty());
    }
}
