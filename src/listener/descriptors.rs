//! The limit on open files, and the share of it that connections may use.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The most connections of one listener: far more than proxies open, and no more than memory
/// allows for.
pub const CONNECTIONS: usize = 10_000;

/// Files for all else: the connections of the admin listener and those to issuers and Redis, what
/// the runtimes of the threads need, and the files of the configuration while they are read.
const OTHERS: usize = 256;

/// Raises the limit on open files as far as the system allows. What it is now.
pub fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    let present = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, ?current, "limit on open files not raised");
            current
        }
    };
    // None is no limit.
    present.map_or(usize::MAX, |it| usize::try_from(it).unwrap_or(usize::MAX))
}

/// How many connections each of so many listeners may have where `files` may be open.
pub fn connections(files: usize, listeners: usize) -> usize {
    let others = OTHERS.min(files.div_euclid(2));
    let each = files.saturating_sub(others).checked_div(listeners).unwrap_or(CONNECTIONS);
    each.clamp(1, CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_left_for_all_else() {
        for (files, listeners, expected) in [
            (usize::MAX, 1, CONNECTIONS),
            (OTHERS + CONNECTIONS, 1, CONNECTIONS),
            (OTHERS + CONNECTIONS - 1, 1, CONNECTIONS - 1),
            (OTHERS + CONNECTIONS, 2, CONNECTIONS / 2),
            (1024, 1, 768),
            (1024, 2, 384),
            (256, 1, 128),
            (1, 2, 1),
            (0, 1, 1),
        ] {
            assert_eq!(connections(files, listeners), expected, "{files} for {listeners}");
        }
    }
}
