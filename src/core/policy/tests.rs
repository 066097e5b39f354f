//! No spelling picks a weaker policy, and none is refused that could not.

mod readers;
mod spelling;
mod tables;
