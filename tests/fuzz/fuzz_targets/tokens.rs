//! Requests that are allowed if and only if a judge says so.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oracles::choices::Choices;
use oracles::tokens::{World, allowed_if_and_only_if};
use std::sync::{LazyLock, Mutex};

static WORLD: LazyLock<Mutex<World>> = LazyLock::new(|| Mutex::new(World::start()));

fuzz_target!(|bytes: &[u8]| {
    let mut world = WORLD.lock().unwrap();
    allowed_if_and_only_if(&mut world, &mut Choices::spelled(bytes));
});
