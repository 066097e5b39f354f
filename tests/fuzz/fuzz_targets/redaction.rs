//! Requests with secrets that are told nowhere.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oracles::choices::Choices;
use oracles::redaction::{World, no_secret_is_told};
use std::sync::{LazyLock, Mutex};

static WORLD: LazyLock<Mutex<World>> = LazyLock::new(|| Mutex::new(World::start()));

fuzz_target!(|bytes: &[u8]| {
    no_secret_is_told(&WORLD.lock().unwrap(), &mut Choices::spelled(bytes));
});
