//! Files that commands read: a token, a certificate, a request.

use crate::config::{self, Config, Problem};
use crate::front::ext_authz::grpc::MESSAGE_BYTES;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What stands for standard input.
const STANDARD: &str = "-";

/// Whether `path` stands for standard input.
pub(super) fn is_standard(path: &Path) -> bool {
    path == Path::new(STANDARD)
}

/// Refuses to read standard input for more than one thing: there would be nothing left for the second.
pub(super) fn once<'a>(paths: impl IntoIterator<Item = Option<&'a Path>>) -> Result<(), String> {
    let count = paths.into_iter().flatten().filter(|it| is_standard(it)).count();
    if count < 2 {
        Ok(())
    } else {
        Err("standard input can be read for one of them only".to_owned())
    }
}

/// The configuration in the file at `path`, or its problems; an error if standard input cannot be read.
pub(super) fn config(path: &Path) -> Result<Result<Config, Vec<Problem>>, String> {
    if is_standard(path) {
        return Ok(config::read(&bytes(path)?, Path::new("")));
    }
    Ok(config::load(path))
}

/// The content of the file at `path`; `-` is standard input. An error names the file.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let read = if is_standard(path) {
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
