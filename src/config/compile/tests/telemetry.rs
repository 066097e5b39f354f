use super::*;

#[test]
fn nothing_is_told_to_others_unless_asked_for() {
    let telemetry = config(MINIMAL).telemetry;
    assert_eq!((telemetry.collector, telemetry.log_allows), (None, Share::NONE));
    let edit = "telemetry: {otlp: {endpoint: 'https://otel.example.com/v1/traces'}}";
    let collector = takes(edit).telemetry.collector.unwrap();
    assert_eq!(collector.endpoint.as_str(), "https://otel.example.com/v1/traces");
    assert_eq!((collector.ca, collector.headers.len()), (None, 0));
    assert_eq!((collector.sample.percent(), &*collector.service_name), ("1%".into(), "keybound"));
    let telemetry = takes("telemetry: {log: {allow_sample: 0.001}}").telemetry;
    assert_eq!(telemetry.log_allows.percent(), "0.1%");
}

#[test]
fn a_collector_must_be_one_that_may_know() {
    let otlp = |inside: &str| format!("telemetry: {{otlp: {{{inside}}}}}");
    let here = "endpoint: 'http://127.0.0.1:4318/v1/traces'";
    takes(&otlp(here));
    takes(&otlp(&format!("{here}, sample_ratio: 0, service_name: edge")));
    takes(&otlp(&format!("{here}, sample_ratio: 1")));
    for (inside, key, message) in [
        ("sample_ratio: 1", "endpoint", "give the URL"),
        ("endpoint: 'http://otel.example.com/v1/traces'", "endpoint", "must be https"),
        ("endpoint: 'http://127.0.0.1:4318'", "endpoint", "has no path"),
        ("endpoint: 'https://u:p@otel.example.com/x'", "endpoint", "credentials"),
        (&format!("{here}, sample_ratio: 1.1"), "sample_ratio", "0 to 1"),
        (&format!("{here}, sample_ratio: -0.1"), "sample_ratio", "0 to 1"),
        (&format!("{here}, sample_ratio: .nan"), "sample_ratio", ""),
        (&format!("{here}, service_name: ''"), "service_name", "empty"),
        (&format!("{here}, ca_file: missing.pem"), "ca_file", "cannot read"),
        (&format!("{here}, ca_file: Cargo.toml"), "ca_file", "holds no certificate"),
        (&format!("{here}, headers_file: missing"), "headers_file", "cannot read"),
        (&format!("{here}, headers_file: README.md"), "headers_file", "no header in line"),
    ] {
        refuses(&otlp(inside), &format!("telemetry.otlp.{key}"), 11, message);
    }
    refuses("telemetry: {log: {allow_sample: 2}}", "telemetry.log.allow_sample", 11, "0 to 1");
}

#[test]
fn headers_for_the_collector_come_from_a_file_and_are_secret() {
    let folder = private_folder();
    let text = edited(
        "telemetry: {otlp: {endpoint: 'https://otel.example.com/x', headers_file: headers}}",
    );
    let read = |lines: &str| {
        fs::write(folder.path().join("headers"), lines).unwrap();
        from_str(&text, folder.path()).map(|it| it.telemetry.collector.unwrap().headers)
    };
    let headers = read("# a key\n\nX-Api-Key: k:1 \nx-scope:eu\n").unwrap();
    let told: Vec<_> = headers.iter().map(|it| (it.0.as_str(), it.1.as_bytes())).collect();
    assert_eq!(told, [("x-api-key", &b"k:1"[..]), ("x-scope", b"eu")]);
    assert!(!format!("{headers:?}").contains("k:1"));
    for (lines, message) in [
        ("secret", "no header in line 1"),
        ("a: b\nsecret text: x", "no header in line 2"),
        ("a: \u{7f}secret", "no header in line 1"),
        ("Content-Type: text/plain", "cannot be set"),
        ("host: secret", "cannot be set"),
    ] {
        let problems = read(lines).unwrap_err();
        one(&problems, lines, ("telemetry.otlp.headers_file", 11, message));
        assert!(!problems[0].message.contains("secret"), "{problems:?}");
    }
}
