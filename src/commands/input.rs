//! Files that commands read: a token, a certificate, a request.

use crate::front::ext_authz::grpc::MESSAGE_BYTES;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The content of the file at `path`; `-` is standard input. An error names the file.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let read = if path == Path::new("-") {
        whole(io::stdin().lock())
    } else {
        File::open(path).and_then(whole)
    };
    read.map_err(|error| of(path, error))
}

/// The same as text, without white space around it.
pub(super) fn line(path: &Path) -> Result<String, String> {
    let text = String::from_utf8(bytes(path)?).map_err(|error| of(path, error))?;
    Ok(text.trim().to_owned())
}

/// An error about the file at `path`.
pub(super) fn of(path: &Path, error: impl Display) -> String {
    format!("{}: {error}", path.display())
}

/// Reads `input`, which may be endless, up to a limit.
fn whole(input: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    let most = u64::try_from(LONGEST).unwrap_or(u64::MAX);
    input.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() <= LONGEST {
        Ok(bytes)
    } else {
        Err(io::Error::other(format!("longer than {LONGEST} bytes")))
    }
}

/// Twice the limit of `serve`, since JSON is longer by less than that.
const LONGEST: usize = 2 * MESSAGE_BYTES;
