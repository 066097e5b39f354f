//! Certificates as PEM (RFC 7468 §5), plain or percent-encoded (RFC 3986 §2.1).

use super::der;
use crate::jose::thumbprint::Thumbprint;
use crate::percent;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The thumbprint of the certificate in URL-encoded PEM. Proxies differ in whether they encode the
/// `+`, `/` and `=` of base64; both forms are accepted.
pub(super) fn thumbprint_of_urlencoded(text: &[u8]) -> Option<Thumbprint> {
    thumbprint(&percent::decoded(text)?)
}

/// The thumbprint of the one certificate in `text`, with nothing before or after it.
///
/// Lines may have any length and end in LF or CRLF. A second certificate is refused rather than
/// taken as a chain: nothing says which of the two the client holds the key of.
pub(super) fn thumbprint(text: &[u8]) -> Option<Thumbprint> {
    let mut lines = lines(text);
    let thumbprint = next(&mut lines)?;
    lines.all(<[u8]>::is_empty).then_some(thumbprint)
}

/// The thumbprint of the first certificate in `text`. Others may follow, and nothing else.
pub(super) fn first_of_chain(text: &[u8]) -> Option<Thumbprint> {
    let mut lines = lines(text).peekable();
    let first = next(&mut lines)?;
    loop {
        while lines.next_if(|it| it.is_empty()).is_some() {}
        if lines.peek().is_none() {
            return Some(first);
        }
        next(&mut lines)?;
    }
}

/// The thumbprint of the one certificate in `text`, which is PEM in one line: its line breaks are
/// blanks, or left out.
pub(super) fn thumbprint_of_flat(text: &[u8]) -> Option<Thumbprint> {
    let is_blank = |it: &u8| matches!(it, b' ' | b'\t');
    let body = text.trim_ascii_end().strip_prefix(BEGIN)?.strip_suffix(END)?;
    let symbols: Vec<u8> = body.iter().copied().filter(|it| !is_blank(it)).collect();
    der::thumbprint(&STANDARD.decode(symbols).ok()?)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&it| it == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// The thumbprint of the certificate that begins with the next line. Consumes it to its last line.
fn next<'a>(lines: &mut impl Iterator<Item = &'a [u8]>) -> Option<Thumbprint> {
    if lines.next()? != BEGIN {
        return None;
    }
    let mut symbols = Vec::new();
    loop {
        match lines.next()? {
            [] => return None,
            line if line == END => break,
            line => symbols.extend_from_slice(line),
        }
    }
    der::thumbprint(&STANDARD.decode(symbols).ok()?)
}

/// The certificate with this DER as PEM.
pub(super) fn write(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE-----";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_certificate::examples::{RFC8705, RFC9440};

    fn read(text: &str) -> Option<String> {
        thumbprint(text.as_bytes()).map(|it| it.to_base64url())
    }

    fn is_refused(edit: impl Fn(&str) -> String) {
        let edited = edit(RFC8705.pem);
        assert_ne!(edited, RFC8705.pem);
        assert_eq!(read(&edited), None, "{edited}");
    }

    #[test]
    fn the_certificates_of_the_rfcs_have_the_thumbprints_of_the_rfcs() {
        assert_eq!(read(RFC8705.pem).as_deref(), Some(RFC8705.x5t_s256));
        assert_eq!(read(RFC9440.pem).as_deref(), Some(RFC9440.x5t_s256));
    }

    #[test]
    fn line_breaks_may_be_of_either_kind_and_anywhere() {
        let pem = RFC8705.pem;
        for spelling in [
            pem.replace('\n', "\r\n"),
            pem.trim_end().to_owned(),
            format!("{pem}\n"),
            pem.replace("MIIB", "M\nIIB"),
            pem.replace("MTAx\n", "MTAx"),
        ] {
            assert_eq!(read(&spelling).as_deref(), Some(RFC8705.x5t_s256), "{spelling}");
        }
    }

    #[test]
    fn nothing_but_one_certificate_is_read() {
        is_refused(|_| String::new());
        is_refused(|it| it.repeat(2));
        is_refused(|it| format!("\n{it}"));
        is_refused(|it| format!("Subject: mtls\n{it}"));
        is_refused(|it| format!("{it}x"));
        is_refused(|it| format!("{it} "));
        is_refused(|it| it.replace("CERTIFICATE", "TRUSTED CERTIFICATE"));
        is_refused(|it| it.replace("BEGIN CERTIFICATE", "begin certificate"));
        is_refused(|it| it.replace("BEGIN ", "BEGIN+"));
        is_refused(|it| it.replace("END CERTIFICATE", "END PUBLIC KEY"));
        is_refused(|it| it.replace("-----END CERTIFICATE-----\n", ""));
        is_refused(|it| it.replace("MIIB", "M\n\nIIB"));
        is_refused(|it| it.replace("MIIB", "M IIB"));
        is_refused(|it| it.replace("MIIB", "M\rIIB"));
        is_refused(|it| it.replace("+SY=", "+SY"));
        is_refused(|it| it.replace("+SY=", "+SZ="));
        is_refused(|it| it.replace("+SY=", "-SY="));
        is_refused(|it| it.replace("+SY=", "+SY=AAAA"));
        is_refused(|it| it.replace("MIIB", "MIIC"));
    }
}
