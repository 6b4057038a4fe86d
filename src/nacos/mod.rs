//! The Nacos dialect: the only place that knows `tenant`, `public`, `casMd5`, `\u{1}` and `\u{2}`. Translates, and decides
//! nothing. Facts about the protocol are those of Nacos 3.0.3, as recorded from a running server.
pub mod grpc;
pub mod http;
mod names;
mod publishing;
pub mod wire;
