//! Encodings, without behaviour.
pub mod listening;
pub mod messages;
pub mod payload;
