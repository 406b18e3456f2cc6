//! synvisor runs a whole Matrix Synapse homeserver from one TOML file.
//!
//! The modules stand in layers: a pure core that decides, and a shell that obeys (ARCHITECTURE.md).

// Pure core: no file, socket, clock, thread, randomness or environment.
pub mod certificate;
pub mod config;
pub mod doctor;
pub mod http1;
pub mod import;
pub mod moving;
pub mod plan;
pub mod render;
pub mod route;
pub mod supervise;
pub mod topology;
pub mod wire;

// Shell: everything that touches the machine.
pub mod admin;
pub mod cli;
pub mod control;
pub mod forkserver;
pub mod host;
pub mod observe;
pub mod router;
pub mod run;
pub mod sys;
