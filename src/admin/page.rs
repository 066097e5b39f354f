//! The status page for people. It displays what it fetches from `/status`.

use super::document;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY, X_FRAME_OPTIONS};
use http::{Response, StatusCode};
use http_body_util::Full;
use keybound_core::jose::Thumbprint;
use std::sync::LazyLock;

const PAGE: &str = include_str!("page.html");

/// The page, self-contained: nothing in it is loaded from elsewhere.
pub(super) fn answer() -> Response<Full<Bytes>> {
    let mut answer = document(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

/// Allows only the page's own style and script, by hash (CSP Level 3 §2.3.1), and requests to its
/// own origin. Text from clients is never executed.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let (style, script) = (hash_of("style"), hash_of("script"));
    let policy = format!(
        "default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'"
    );
    // No script runs under this policy: better a page that shows nothing than one without a policy.
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// The CSP hash source for the contents of the only element with this name.
fn hash_of(element: &str) -> String {
    let (begin, end) = (format!("<{element}>"), format!("</{element}>"));
    let inside = PAGE.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
    let text = inside.map_or("", |(inside, _)| inside);
    format!("'sha256-{}'", STANDARD.encode(Thumbprint::of(text.as_bytes()).octets()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use keybound_core::Denial;

    #[test]
    fn the_page_knows_no_reason_by_itself() {
        for denial in Denial::ALL {
            assert!(!PAGE.contains(&format!("\"{denial}\"")), "{denial}");
        }
    }

    #[test]
    fn nothing_comes_from_elsewhere_and_nothing_is_made_of_text() {
        // The SVG namespace looks like a URL, but is not fetched.
        let page = PAGE.replace("http://www.w3.org/2000/svg", "");
        for word in [
            "http:",
            "https:",
            "src=",
            "@import",
            "url(",
            "style=",
            "onclick",
            "innerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "DOMParser",
        ] {
            assert!(!page.contains(word), "{word}");
        }
        assert_eq!(PAGE.matches("<style>").count(), 1);
        assert_eq!(PAGE.matches("<script>").count(), 1);
        assert_eq!(PAGE.matches("<script").count(), 1);
    }

    #[test]
    fn the_policy_names_what_is_in_the_page() {
        let policy = POLICY.to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        let nothing = STANDARD.encode(Thumbprint::of(b"").octets());
        assert!(!policy.contains(&nothing), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }
}
