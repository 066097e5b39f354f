//! A secret that who asks must show.

/// Long enough that it cannot be guessed over the network, in bytes.
pub(super) const SHORTEST: usize = 16;

/// What a file holds, without the line break at its end.
pub(super) fn usable(text: &[u8]) -> Result<Vec<u8>, String> {
    let secret = text.trim_ascii_end();
    let is_usable = SHORTEST <= secret.len() && secret.iter().all(u8::is_ascii_graphic);
    if is_usable { Ok(secret.to_owned()) } else { Err(unusable()) }
}

/// What is wrong with one that cannot be used. It does not quote it.
pub(super) fn unusable() -> String {
    format!("the file must hold {SHORTEST} visible characters at least, on one line")
}
