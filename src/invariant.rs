//! What cannot be and yet is: a broken invariant, said in the log once for each place in the code.
//!
//! Lookups that must succeed are written without a panic. The one who finds nothing says so here and
//! goes on to the safe side, instead of going on with a value that looks like any other.

use std::collections::BTreeSet;
use std::panic::Location;
use std::sync::{Mutex, PoisonError};

/// Says that `expected` does not hold. What follows from that is for the caller.
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
