//! Targets of proofs, normalised here and by another library.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oracles::choices::Choices;
use oracles::uri::two_are_equal_where_they_normalise_alike;

fuzz_target!(|bytes: &[u8]| {
    two_are_equal_where_they_normalise_alike(&mut Choices::spelled(bytes));
});
