//! The verb for the web server in front; it needs no daemon.

use std::path::Path;

use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;

use crate::config::host_and_port;
use crate::host::toml;
use crate::host::toml::Unusable;
use crate::render::front;
use crate::render::front::Server;

use super::Exit;
use super::config;
use super::output;

/// Takes the name of a web server.
pub(super) fn servers() -> impl TypedValueParser<Value = Server> {
    PossibleValuesParser::new(Server::ALL.map(Server::name))
        .try_map(|name| Server::ALL.into_iter().find(|server| server.name() == name).ok_or("unknown"))
}

/// Takes a host with its port.
pub(super) fn address(text: &str) -> Result<(String, u16), String> {
    match host_and_port(text) {
        Some((host, Some(port))) => Ok((host.to_owned(), port)),
        Some((_, None)) | None => Err("write HOST:PORT, like matrix.example.com:8448".to_owned()),
    }
}

/// Prints a configuration for a web server.
pub(super) fn print(path: &Path, server: Server, federation_port: bool, also: &[(String, u16)]) -> Exit {
    let loaded = match toml::load(path, None) {
        Ok(loaded) => loaded,
        Err(unusable) => return config::refuse(&unusable),
    };
    match front::front(&loaded.parsed, server, federation_port, also) {
        Ok(text) => {
            output::line(text.trim_end());
            Exit::Done
        }
        Err(problem) => config::refuse(&Unusable::Problems(loaded.document, vec![problem])),
    }
}
