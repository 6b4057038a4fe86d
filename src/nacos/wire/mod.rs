//! Encodings, without behaviour.
pub mod listening;
