//! Requests as Envoy may send them, and with fields that come again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oracles::choices::Choices;
use oracles::wire::{a_repetition_is_refused_or_read_alike, what_envoy_sends_is_read};

fuzz_target!(|bytes: &[u8]| {
    what_envoy_sends_is_read(&mut Choices::spelled(bytes));
    a_repetition_is_refused_or_read_alike(&mut Choices::spelled(bytes));
});
