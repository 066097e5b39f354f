//! Any bytes as a `CheckRequest`, read in place and by a full decoder.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oracles::wire::reads_as_the_full_decoder;

fuzz_target!(|bytes: &[u8]| {
    reads_as_the_full_decoder(bytes, Some("x-forwarded-proto"));
});
