//! Certificates whose names spell elements of `x-forwarded-client-cert`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oracles::choices::Choices;
use oracles::xfcc::no_other_certificate_is_read;

fuzz_target!(|bytes: &[u8]| {
    no_other_certificate_is_read(&mut Choices::spelled(bytes));
});
