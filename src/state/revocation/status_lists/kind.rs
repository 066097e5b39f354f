//! What an answer with a status list is said to be.
//!
//! The signature and the `typ` under it tell a list from anything else, so that the `Content-Type` decides
//! nothing about trust. One that names another thing tells of a wrong URI sooner than a parser would.

use http::HeaderValue;

/// The media type of a list (Token Status List), and what servers of files say that do not know it.
const KINDS: [&[u8]; 4] =
    [b"application/statuslist+jwt", b"application/jwt", b"application/octet-stream", b"text/plain"];

/// Whether an answer of this `Content-Type` may be a list. One without is what its content says.
///
/// # Errors
///
/// What it is said to be.
pub(super) fn admit(content_type: Option<&HeaderValue>) -> Result<(), String> {
    let Some(said) = content_type else { return Ok(()) };
    let essence = said.as_bytes().split(|it| *it == b';').next().unwrap_or_default().trim_ascii();
    let is_one = KINDS.iter().any(|it| essence.eq_ignore_ascii_case(it));
    if is_one { Ok(()) } else { Err(essence.escape_ascii().take(SHOWN).map(char::from).collect()) }
}

/// How much of it is told, in characters.
const SHOWN: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(content_type: &'static str) -> Result<(), String> {
        admit(Some(&HeaderValue::from_static(content_type)))
    }

    #[test]
    fn a_list_comes_as_one_or_as_a_file_that_its_server_does_not_know() {
        assert_eq!(admit(None), Ok(()));
        for good in [
            "application/statuslist+jwt",
            "Application/StatusList+JWT ; charset=utf-8",
            "application/jwt",
            "application/octet-stream",
            "text/plain;charset=utf-8",
        ] {
            assert_eq!(admitted(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_is_said_to_be_something_else_is_no_list() {
        for (other, told) in [
            ("application/statuslist+cwt", "application/statuslist+cwt"),
            ("application/statuslist+jwt2", "application/statuslist+jwt2"),
            ("application/json; charset=utf-8", "application/json"),
            ("text/html; a=application/statuslist+jwt", "text/html"),
            ("", ""),
        ] {
            assert_eq!(admitted(other), Err(told.to_owned()), "{other}");
        }
        let odd = HeaderValue::from_bytes(&[0xff; 100]).unwrap();
        assert!(admit(Some(&odd)).is_err_and(|it| it.len() == SHOWN));
    }
}
