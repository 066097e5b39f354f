//! Broken invariants, logged once per place in the code.
//!
//! Lookups that must succeed do not panic if they fail. They report the failure here and take the
//! safe side, rather than go on with a default that looks like any other value.

use std::collections::BTreeSet;
use std::panic::Location;
use std::sync::{Mutex, PoisonError};

/// Logs that `expected` does not hold. The caller decides what follows.
#[cold]
#[track_caller]
pub fn broken(expected: &'static str) {
    let place = Location::caller();
    if is_news(place) {
        let place = place.to_string();
        tracing::error!(
            expected,
            place,
            "broken invariant: this is a fault of keybound, report it"
        );
    }
}

fn is_news(place: &Location<'_>) -> bool {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(place.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_is_said_once() {
        let [one, other] = [Location::caller(), another()];
        assert_eq!([one, one, other, other].map(is_news), [true, false, true, false]);
        broken("this is only a test");
    }

    #[track_caller]
    fn here() -> &'static Location<'static> {
        Location::caller()
    }

    fn another() -> &'static Location<'static> {
        here()
    }
}
