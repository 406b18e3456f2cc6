//! What synvisor keeps on the machine's disk, and what it finds there.

pub mod builder;
pub mod certificates;
pub mod checkup;
pub mod database;
pub mod digest;
pub mod generations;
pub mod layout;
pub mod machine;
pub mod media;
pub mod provision;
pub mod python;
pub mod schema;
pub mod secrets;
pub mod servlets;
pub mod settings;
pub mod state;
pub mod systemd;
pub mod toml;
pub mod venv;
pub mod venvs;
