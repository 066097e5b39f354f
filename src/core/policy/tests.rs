//! Tests that no spelling selects a weaker policy, and that none is refused needlessly.

mod readers;
mod spelling;
mod tables;
