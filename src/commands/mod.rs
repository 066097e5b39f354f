//! Knows what the program can be told to do.

pub mod demo;
