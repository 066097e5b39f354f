//! What an error of the HTTP library says, in words for who runs the service.

use std::error::Error;

/// Maximum length of an error message, which may contain names from a server's certificate.
const MAX_STORY: usize = 300;

/// Layers of the library that add nothing to what caused them.
const EMPTY: [&str; 3] = ["client error (Connect)", "tcp connect error", "dns error"];

/// Words of the TLS library that need others.
const PLAINER: [(&str, &str); 3] = [
    (
        "Other(OtherError(CaUsedAsEndEntity))",
        "the server shows the certificate of an authority (CA:TRUE) as its own: have it show one that the \
         authority has issued, or one without CA:TRUE",
    ),
    (
        "invalid peer certificate: UnknownIssuer",
        "invalid peer certificate: UnknownIssuer: no authority that is trusted here has issued it (`ca_file` \
         names one of your own)",
    ),
    (
        "received corrupt message of type InvalidContentType",
        "the server does not speak TLS: is it http, and not https?",
    ),
];

/// The chain of causes, outermost first, without the URL.
pub(super) fn of(error: &reqwest::Error) -> String {
    // The outermost message of reqwest's errors says nothing but the URL.
    let mut told = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        told.push(error.to_string());
        cause = error.source();
    }
    in_words(&told)
}

fn in_words(told: &[String]) -> String {
    let Some((last, outer)) = told.split_last() else { return "the exchange failed".to_owned() };
    let outer = outer.iter().filter(|it| !EMPTY.contains(&it.as_str()));
    let told: Vec<_> = outer.chain([last]).map(String::as_str).collect();
    let told = PLAINER.iter().fold(told.join(": "), |told, (from, to)| told.replace(from, to));
    told.chars().filter(|it| !it.is_control()).take(MAX_STORY).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_once_and_in_words() {
        for (chain, expected) in [
            (&[][..], "the exchange failed"),
            (
                &[
                    "client error (Connect)",
                    "tcp connect error",
                    "Connection refused (os error 111)",
                ],
                "Connection refused (os error 111)",
            ),
            (&["client error (Connect)"], "client error (Connect)"),
            (
                &["client error (SendRequest)", "connection closed"],
                "client error (SendRequest): connection closed",
            ),
            (
                &[
                    "client error (Connect)",
                    "invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))",
                ],
                "invalid peer certificate: the server shows the certificate of an authority (CA:TRUE) as \
                 its own: have it show one that the authority has issued, or one without CA:TRUE",
            ),
            (&["a\nb"], "ab"),
        ] {
            let chain: Vec<_> = chain.iter().map(|it| (*it).to_owned()).collect();
            assert_eq!(in_words(&chain), expected);
        }
        assert_eq!(in_words(&["x".repeat(1000)]).len(), MAX_STORY);
    }
}
