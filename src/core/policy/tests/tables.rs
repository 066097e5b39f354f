//! The spellings that are refused, one by one.

use crate::denial::{Denial, Detail};
use crate::explanation::{Explanation, Mark};
use crate::policy::PolicySet;
use crate::policy::examples::set;
use crate::request::{Field, Overrides, Request, Target};

const REFUSED: Result<&str, Denial> = Err(Denial::RequestMalformed);

fn request<'a>(method: &'a str, authority: &'a str, path: &'a str) -> Request<'a> {
    let target = Target { method, scheme: "https", authority, path };
    Request { target, ..Request::default() }
}

#[track_caller]
fn check(set: &PolicySet, request: &Request<'_>, expected: Result<&str, Denial>) {
    let found = set.policy(request).map(|it| &*it.name);
    assert_eq!(found, expected, "{:?} {:?}", request.target, request.overrides);
}

#[track_caller]
fn paths(rows: &[&str], paths: &[&str], expected: Result<&str, Denial>) {
    let set = set(rows);
    for path in paths {
        check(&set, &request("GET", "x", path), expected);
    }
}

/// Paths that some servers take for one below `/payments`, and others do not.
const SPELLINGS: &[&str] = &[
    "/Payments/7",
    "/PAYMENTS",
    "/payments;v=1/7",
    "/payments%3bv=1/7",
    "/payments%253bv=1/7",
    "/;x/payments/7",
    "/;/payments",
    "/a/..;/payments",
    "/;a/;b/payments",
    "/%3b/payments",
    "//payments",
    "///payments/7",
    "//host/payments",
    "/\\host/payments",
    "/./payments",
    "/x/../payments",
    "/x/%2e%2e/payments",
    "/x/.%2E/payments",
    "/x/..;/payments",
    "/x/..;a=b/payments",
    "/x/..%3b/payments",
    "/..//payments",
    "/a/../payments;x/..;/..",
    "/payments%2f7",
    "/payments%2F7",
    "/x/..%2fpayments",
    "/payments%5c7",
    "/payments\\7",
    "/x/..%5c..%5cpayments",
    "/payments%00",
    "/payments%00.html",
    "/payments#x",
    "/payments%23x",
    "/payments%3fx",
    "/payments.",
    "/payments%20",
    "/payments%20./7",
    "/payments%0a",
    "/%2570ayments",
    "/%25%37%30ayments",
    "/payments%252f7",
    "/x/%252e%252e/payments",
    "/x/%c0%ae%c0%ae/payments",
    "/x/%C0%AE./payments",
    "/payments%c0%af7",
    "/payments%e0%80%af7",
    "/payments%f0%80%80%af7",
    "/payments%f8%80%80%80%af7",
    "/payments%fc%80%80%80%80%af7",
    "/payments%c1%9c7",
    "/%u0070ayments",
    "/payments%u002f7",
    "/%55/../%50ayments;v=1",
    "///x/payments",
    "////x/payments",
    "/\\/x/payments",
    "/\\\\x/payments",
    "///u@x/payments",
    "payments",
    "https://x/payments",
];

#[test]
fn what_could_be_read_as_a_path_that_asks_for_more_is_refused() {
    paths(&["strict * /payments * pay", "rest"], SPELLINGS, REFUSED);
    // A request that is denied anyway keeps its own reason.
    paths(&["strict * /payments * pay"], SPELLINGS, Err(Denial::PolicyUnknown));
}

#[test]
fn it_passes_where_every_reading_asks_for_no_more() {
    paths(&["strict * /payments", "rest"], SPELLINGS, Ok("rest"));
    paths(&["weak * /payments", "rest * * * pay"], SPELLINGS, Ok("rest"));
    paths(&["strict * /payments * report", "rest"], SPELLINGS, Ok("rest"));
    paths(&["all"], SPELLINGS, Ok("all"));
    paths(&["all x"], SPELLINGS, Ok("all"));
    // If all policies are in report mode, nothing is refused.
    paths(&["strict * /payments * report,pay", "rest * * * report"], SPELLINGS, Ok("rest"));
}

#[test]
fn a_report_does_not_stand_in_for_a_refusal() {
    paths(&["strict * /payments", "rest * * * report"], SPELLINGS, REFUSED);
}

#[test]
fn what_everybody_reads_alike_passes() {
    let rows = ["strict * /payments * pay", "api * /api/v1 * api", "rest"];
    let plain = [
        "/",
        "",
        "*",
        "/paymentsx",
        "/payments.json",
        "/payment",
        "/x/payments",
        "/x;payments",
        "/;payments",
        "/projects/group%2Fname",
        "/x//y",
        "/x/../y",
        "/x/...",
        "/x/..a",
        "/x/a..",
        "/x%20y",
        "/x%25",
        "/x/%",
        "/%zz",
        "/x+y",
        "/X/Y",
        "/api",
        "/API/v2",
        "/é",
        "/%c3%a9",
        "/%e0%a0%80",
        "/x?/../payments",
        "/x?a=%2fpayments;",
    ];
    paths(&rows, &plain, Ok("rest"));
    let strict = [
        "/payments",
        "/payments/",
        "/%70ayments",
        "/payments/7;v=1",
        "/payments//7",
        "/payments/X%2fY",
        "/payments/a%20",
        "/payments/A",
        "/payments/x/../y",
    ];
    paths(&rows, &strict, Ok("strict"));
    paths(&rows, &["/api;x/v1/payments", "/api/;x/v1/payments", "/api//v1/x"], REFUSED);
}

#[test]
fn a_path_that_leaves_all_policies_is_refused() {
    let rows = ["payments * /payments", "docs * /docs * docs"];
    let out = ["/payments/../x", "/payments/..;/x", "/payments/..%2fx", "/docs/%2e%2e/x"];
    paths(&rows, &out, REFUSED);
    paths(&rows, &["/payments/../docs", "/payments/.."], REFUSED);
    paths(&["payments * /payments", "rest"], &["/payments/../x"], Ok("payments"));
}

#[test]
fn what_a_policy_names_as_it_is_spelled_is_the_operators_word() {
    let rows = ["strict * /payments * pay", "upper * /Payments", "dot * /payments.", "rest"];
    paths(&rows, &["/Payments", "/Payments/7", "/%50ayments"], Ok("upper"));
    paths(&rows, &["/payments./7"], Ok("dot"));
    paths(&rows, &["/payments/7"], Ok("strict"));
    paths(&rows, &["/PAYMENTS", "/Payments./7", "/payments%20"], REFUSED);
    // Only for that segment, and only at that position.
    paths(&rows, &["/Payments/../payments", "/Payments/..;/payments", "/x/../Payments"], REFUSED);
    let below = ["strict * /a/b * pay", "upper * /A", "rest"];
    paths(&below, &["/A/b", "/A/B"], Ok("upper"));
    let blank = ["strict * /a * pay", "blank * /a%20", "twice * /%61", "rest"];
    paths(&blank, &["/a%20/x", "/a /x"], REFUSED);
    let rows = ["strict * /c * pay", "sharp * /c#", "twice * /%63", "rest"];
    paths(&rows, &["/c%23/x"], Ok("sharp"));
    paths(&rows, &["/%2563/x"], Ok("twice"));
}

#[test]
fn letters_of_any_script_have_case() {
    let rows = ["strict * /büro * pay", "rest"];
    paths(&rows, &["/B%C3%9Cro", "/BÜRO", "/b%c3%9cro/7"], REFUSED);
    paths(&rows, &["/buro", "/b%c3%bcr"], Ok("rest"));
    paths(&["strict * /kiosk * pay", "rest"], &["/%E2%84%AAiosk", "/\u{212a}IOSK"], REFUSED);
}

#[test]
fn what_is_too_odd_to_be_read_in_every_way_is_refused_where_a_policy_asks_for_more() {
    let odd = "/;x//..\\%5c.%20/%2f%00#%c0%af%253b".repeat(40);
    paths(&["strict * /payments * pay", "rest"], &[&odd], REFUSED);
    paths(&["weak * /payments", "rest * * * pay"], &[&odd], Ok("rest"));
    let rows: Vec<_> = (0..1000).map(|it| format!("p{it} * /s{it} POST pay")).collect();
    let rows: Vec<_> = rows.iter().map(String::as_str).chain(["rest"]).collect();
    let many = set(&rows);
    // Many policies, and one ambiguity.
    check(&many, &request("GET", "x", "/a%20b;v=1/c"), Ok("rest"));
    // Many policies, and many methods.
    let methods: Vec<_> = (0..1000).map(|it| format!("_method=M{it}")).collect();
    check(&many, &request("GET", "x", &format!("/;a?{}", methods.join("&"))), REFUSED);
    // As long, with few ambiguities.
    let long = format!("/x;{}//y", "/a;b".repeat(1000));
    paths(&["strict * /payments * pay", "rest"], &[&long], Ok("rest"));
}

#[test]
fn an_odd_authority_may_be_each_host_in_it() {
    let rows = ["strict api.example.com * * pay", "below *.example.org * * pay", "rest"];
    let (by_host, no_host) = (set(&rows), set(&["rest"]));
    for odd in [
        "api.example.com,other.test",
        "other.test,api.example.com",
        "user@api.example.com",
        "api.example.com@other.test",
        "api.example.com:44x",
        "api.example.com:443:1",
        "api%2eexample.com",
        "api.example.com/x",
        "api.example.com\\x",
        ".api.example.com",
        "api..example.com",
        "API.example.com..",
        "api.example.com ",
        "x y.example.org",
        "bücher.example",
    ] {
        check(&by_host, &request("GET", odd, "/"), REFUSED);
        check(&no_host, &request("GET", odd, "/"), Ok("rest"));
    }
    for other in ["..", "[x]", "a b", "other.test:443:1", "user@other.test", "", "api.example.net"]
    {
        check(&by_host, &request("GET", other, "/"), Ok("rest"));
    }
    for plain in ["API.example.com", "api.example.com.", "api.example.com:443"] {
        check(&by_host, &request("GET", plain, "/"), Ok("strict"));
    }
    let address = set(&["strict [::1] * * pay", "rest"]);
    for plain in ["[::1]:443", "[0:0::1]", "[::0001]:443"] {
        check(&address, &request("GET", plain, "/"), Ok("strict"));
    }
    for odd in ["[::1]x", "user@[0::1]"] {
        check(&address, &request("GET", odd, "/"), REFUSED);
    }
    check(&address, &request("GET", "[::2]", "/"), Ok("rest"));
}

#[test]
fn the_case_of_a_method_may_not_pick_a_policy_that_asks_for_less() {
    for (rows, method, expected) in [
        (&["strict * * POST pay", "rest"][..], "POST", Ok("strict")),
        (&["strict * * POST pay", "rest"], "PUT", Ok("rest")),
        (&["strict * * POST pay", "rest"], "put", Ok("rest")),
        (&["strict * * POST pay", "rest"], "post", REFUSED),
        (&["strict * * POST pay", "rest"], "Post", REFUSED),
        (&["other * * POST", "rest"], "post", Ok("rest")),
        (&["rest", "late * * POST pay"], "post", Ok("rest")),
        (&["all * * POST", "rest * * PUT"], "post", Err(Denial::PolicyUnknown)),
        // Servers answer HEAD with the handler for GET.
        (&["strict * * GET pay", "rest"], "HEAD", REFUSED),
        (&["strict * * GET pay", "rest"], "head", REFUSED),
        (&["strict * * GET pay", "rest"], "HEADS", Ok("rest")),
        (&["strict * * GET,HEAD pay", "rest"], "HEAD", Ok("strict")),
        (&["strict * * POST pay", "rest"], "HEAD", Ok("rest")),
        (&["read * * GET", "rest"], "HEAD", Ok("rest")),
    ] {
        check(&set(rows), &request(method, "x", "/"), expected);
    }
}

#[test]
fn a_server_may_do_several_things_at_once() {
    let rows = set(&["strict api.test /payments POST pay", "rest"]);
    for (method, host, path, expected) in [
        ("POST", "api.test", "/payments", Ok("strict")),
        ("post", "api.test", "/payments", REFUSED),
        ("POST", "api.test", "/payments;x", REFUSED),
        ("post", "api.test", "/Payments;x", REFUSED),
        ("post", "user@api.test", "/Payments;x", REFUSED),
        ("POST", "api.test", "/payments/7;x", Ok("strict")),
        ("get", "api.test", "/payments;x", Ok("rest")),
        ("post", "api.test", "/other;x", Ok("rest")),
        ("post", "user@other.test", "/payments;x", Ok("rest")),
    ] {
        check(&rows, &request(method, host, path), expected);
    }
}

fn overridden<'a>(path: &'a str, method: Field<'a>, url: Field<'a>) -> Request<'a> {
    Request { overrides: Overrides { method, url }, ..request("POST", "api.test", path) }
}

#[test]
fn a_method_that_a_header_or_the_query_names_may_be_the_one() {
    let by_method = set(&["erase * * DELETE erase", "write * * POST,PUT", "rest * * GET read"]);
    let by_path = set(&["strict * /payments * pay", "rest"]);
    let with = |value: &'static str| overridden("/", Field::One(value.as_bytes()), Field::Absent);
    for (value, expected) in [
        ("DELETE", REFUSED),
        ("delete", REFUSED),
        (" DELETE", REFUSED),
        ("PUT, DELETE", REFUSED),
        ("GET", REFUSED),
        ("PATCH", REFUSED),
        ("HEAD", REFUSED),
        ("PUT", Ok("write")),
        ("put", Ok("write")),
        ("POST", Ok("write")),
        ("", Ok("write")),
    ] {
        check(&by_method, &with(value), expected);
        check(&by_path, &with(value), Ok("rest"));
    }
    check(&by_method, &overridden("/", Field::Many, Field::Absent), REFUSED);
    let read = set(&["strict * * GET pay", "rest"]);
    check(&read, &with("HEAD"), REFUSED);
    check(&read, &overridden("/?_method=head", Field::Absent, Field::Absent), REFUSED);
    check(&read, &with("PUT"), Ok("rest"));
    for (path, expected) in [
        ("/?_method=delete", REFUSED),
        ("/?a=b&_method=DELETE", REFUSED),
        ("/?a=b;%5fmethod=DEL%45TE", REFUSED),
        ("/?_method=DELETE#x", REFUSED),
        ("/?a#_method=DELETE", REFUSED),
        ("/?.method=DELETE", REFUSED),
        ("/?_method%00x=DELETE", REFUSED),
        ("/?_METHOD=DELETE", REFUSED),
        // A proxy that decodes forwards a query.
        ("/items%3f_method=DELETE", REFUSED),
        ("/items%253F_method=DELETE", REFUSED),
        ("/items%3fa=b%26_method=put", Ok("write")),
        ("/?my_method=delete", Ok("write")),
        ("/?_method=put", Ok("write")),
        ("/?_method", Ok("write")),
        ("/?method=delete", Ok("write")),
        ("/_method=delete", Ok("write")),
    ] {
        check(&by_method, &overridden(path, Field::Absent, Field::Absent), expected);
        check(&by_path, &overridden(path, Field::Absent, Field::Absent), Ok("rest"));
    }
}

#[test]
fn a_url_that_a_header_names_may_be_the_one() {
    let rows = set(&["strict * /payments * pay", "docs * /docs", "rest"]);
    for (url, expected) in [
        ("/payments", REFUSED),
        ("/payments/7?x=1", REFUSED),
        ("///x/payments", REFUSED),
        ("/Payments;v=1", REFUSED),
        ("https://api.test/payments", REFUSED),
        ("payments", REFUSED),
        ("/docs", Ok("rest")),
        ("https://api.test/x", Ok("rest")),
        ("/x?/payments", Ok("rest")),
        ("", Ok("rest")),
        ("\u{e9}", Ok("rest")),
    ] {
        check(&rows, &overridden("/", Field::Absent, Field::One(url.as_bytes())), expected);
        let own = overridden("/payments", Field::Absent, Field::One(url.as_bytes()));
        check(&rows, &own, Ok("strict"));
    }
    check(&rows, &overridden("/", Field::Absent, Field::Many), REFUSED);
    check(&rows, &overridden("/payments", Field::Absent, Field::Many), Ok("strict"));
    let by_method = set(&["erase * * DELETE erase", "rest"]);
    check(&by_method, &overridden("/", Field::Absent, Field::One(b"/payments")), Ok("rest"));
    for url in [&b"/payments?_method=DELETE"[..], b"/x%3f_method=DELETE"] {
        check(&by_method, &overridden("/", Field::Absent, Field::One(url)), REFUSED);
    }
    check(&by_method, &overridden("/", Field::Absent, Field::Many), REFUSED);
}

#[test]
fn what_was_read_in_another_way_is_told() {
    let rows = set(&["strict api.test /payments POST pay", "other api.test", "rest"]);
    let by_url = overridden("/", Field::Absent, Field::One(b"/x/../payments"));
    for (request, detail, reading) in [
        (request("POST", "api.test", "/Payments;x/7"), Detail::PathAmbiguous, "/Payments/7"),
        (request("post", "api.test", "/payments"), Detail::MethodAmbiguous, "POST"),
        (request("POST", "u@api.test", "/payments"), Detail::HostAmbiguous, "api.test"),
        (by_url, Detail::UrlOverridden, "/payments"),
    ] {
        let mut explanation = Explanation::kept();
        let refusal = rows.select(&request, &mut explanation).unwrap_err();
        assert_eq!(refusal, detail.into());
        let last = explanation.steps().last().unwrap();
        assert_eq!((last.mark, &*last.finding.what), (Mark::Failed, "reading"));
        let told = format!("{detail}, read as {reading}: strict matches, which is stricter");
        assert_eq!(last.finding.found, told);
    }
    let narrow = set(&["docs * /docs"]);
    let mut explanation = Explanation::kept();
    assert!(narrow.select(&request("GET", "x", "/docs/../x"), &mut explanation).is_err());
    let found = &explanation.steps().last().unwrap().finding.found;
    assert_eq!(found, "path_ambiguous, read as /x: no policy matches, so that it is denied");
}
