//! The limit on open files, and the share of it that connections may use.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The maximum number of connections of one listener: far more than proxies open, and no more than
/// memory allows.
pub const CONNECTIONS: usize = 10_000;

/// Files for everything else: connections of the admin listener, to issuers and to Redis, the
/// runtimes, and configuration files while they are read.
const OTHERS: usize = 256;

/// Raises the limit on open files as far as the system allows, and returns it.
pub fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    let present = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, current, "limit on open files not raised");
            current
        }
    };
    // `None` means unlimited.
    present.map_or(usize::MAX, |it| usize::try_from(it).unwrap_or(usize::MAX))
}

/// The connection limit of each of `listeners` listeners, if `files` may be open.
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
