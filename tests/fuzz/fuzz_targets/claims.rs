//! Demands of claims, and claims in headers.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oracles::choices::Choices;
use oracles::claims::{a_demand_holds_where_the_claim_says_so, a_header_tells_the_claim};

fuzz_target!(|bytes: &[u8]| {
    a_demand_holds_where_the_claim_says_so(&mut Choices::spelled(bytes));
    a_header_tells_the_claim(&mut Choices::spelled(bytes));
});
