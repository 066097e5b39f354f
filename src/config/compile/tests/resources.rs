use super::*;

#[test]
fn a_resource_has_an_address_that_clients_can_ask() {
    let with = |origin: &str, more: &str| {
        format!("  sender_constraint: certificate\n  origin: {origin}\n  {more}")
    };
    let origin = "https://api.example.com";
    for (given, path, message) in [
        ("resource: {name: ''}", "resource.name", "must not be empty"),
        ("resource: {documentation: http://a.example}", "resource.documentation", "https"),
        ("resource: {documentation: page}", "resource.documentation", "must begin with https"),
        ("resource: {title: x}", "resource.title", "unknown key"),
    ] {
        refuses(&with(origin, given), &format!("policies[0].{path}"), 10, message);
    }
    let http = with("http://api.example.com", "resource: {}");
    refuses(&http, "policies[0].resource", 10, "must be https");
    let elsewhere = "resource: {}\n  resource_metadata: https://a.example/x";
    refuses(&with(origin, elsewhere), "policies[0].resource", 10, "leave out one of the two");
    for (origin, given, name) in [
        (origin, "resource: {}", None),
        ("http://localhost:8080", "resource: {name: Payments}", Some("Payments")),
        (origin, "resource: {documentation: 'https://docs.example.com/a'}", None),
    ] {
        let policy = &takes(&with(origin, given)).rules.policies.policies[0];
        assert_eq!(policy.resource.as_ref().unwrap().name.as_deref(), name);
    }
}

#[test]
fn metadata_over_forward_auth_need_a_path_where_nobody_asks() {
    let text = |forward_auth: &str, resource: &str| {
        edited(&format!(
            "  sender_constraint: certificate\n  origin: https://api.example.com\n  {resource}"
        ))
        .replace(
            "listen: {}",
            &format!("listen: {{forward_auth: '127.0.0.1:9002'}}\nforward_auth: {forward_auth}"),
        )
    };
    let message = "served only where questions have a prefix";
    for (forward_auth, resource, is_warned_of) in [
        ("{flavour: envoy}", "resource: {}", true),
        ("{flavour: envoy, path_prefix: /resource-metadata}", "resource: {}", true),
        ("{flavour: envoy, path_prefix: /check}", "resource: {}", false),
        ("{flavour: envoy}", "realm: x", false),
        ("{flavour: nginx}", "resource: {}", false),
    ] {
        let warnings = config(&text(forward_auth, resource)).warnings;
        let found = warnings.iter().filter(|it| it.message.contains(message));
        assert_eq!(found.count(), usize::from(is_warned_of), "{forward_auth} {warnings:?}");
    }
}

#[test]
fn metadata_that_another_policy_would_have_to_keep_are_pointed_out() {
    let (none, get) = ("sender_constraint: none", Some("`second` decides about GET"));
    for (host, matches, second, other) in [
        ("api", "hosts: [api.test]", none, None),
        ("api", "hosts: [api.test], methods: [POST]", none, get),
        ("api", "hosts: [api.test], methods: [POST]", "public: true", get),
        ("api", "hosts: [api.test], methods: [POST]", "sender_constraint: certificate", None),
        ("other", "hosts: [api.test]", none, get),
        ("api", "hosts: ['*.api.test']", none, get),
    ] {
        // The first one of the file would match everything.
        let text = edited(&format!(
            "  sender_constraint: certificate
  match: {{hosts: [elsewhere.test]}}
- name: first
  sender_constraint: certificate
  origin: https://{host}.test
  resource: {{}}
  match: {{{matches}, path_prefix: /p}}
- {{name: second, {second}}}"
        ));
        let warnings = config(&text).warnings;
        let found = warnings.iter().find(|it| it.path == "policies[1].resource");
        assert_eq!(found.is_some(), other.is_some(), "{host} {matches} {second}: {warnings:?}");
        assert!(other.is_none_or(|it| found.unwrap().message.contains(it)), "{warnings:?}");
    }
}

#[test]
fn two_resources_are_not_in_one_place() {
    let policies = |origin: &str, path: &str, method: &str, more: &str| {
        edited(&format!(
            "  sender_constraint: certificate
  origin: https://api.example.com
  match: {{path_prefix: /payments, methods: [GET]}}
  resource: {{}}
- name: other
  sender_constraint: certificate
  origin: {origin}
  match: {{path_prefix: {path}, methods: [{method}]}}
  {more}"
        ))
    };
    for (origin, path) in
        [("https://api.example.com", "/payments"), ("https://API.example.com:8443", "/pay%6Dents")]
    {
        let text = policies(origin, path, "POST", "resource: {}");
        let found = read(&text).unwrap_err();
        one(&found, &text, ("policies[1].resource", 16, "`payments` above has the same origin"));
        let named = "resource_metadata: https://api.example.com/x";
        assert!(read(&policies(origin, path, "POST", named)).is_ok());
    }
    for (origin, path) in
        [("https://api.example.com", "/other"), ("https://other.example.com", "/payments")]
    {
        assert!(read(&policies(origin, path, "POST", "resource: {}")).is_ok());
    }
}
