//! The part of synvisor that is fuzzed: what else it links would take minutes to build with coverage.

#[path = "../../src/config/mod.rs"]
pub mod config;
#[path = "../../src/http1/mod.rs"]
pub mod http1;
#[path = "../../src/render/mod.rs"]
pub mod render;
#[path = "../../src/route/mod.rs"]
pub mod route;
#[path = "../../src/topology/mod.rs"]
pub mod topology;
