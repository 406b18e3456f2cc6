//! What a machine has, and what it suggests for a homeserver.

use std::net::SocketAddr;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use crate::sys::fs;

/// Bytes of a gibibyte.
const GIB: u64 = 1 << 30;

/// What matters of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    pub cores: usize,
    /// Bytes.
    pub memory: u64,
    postgres: bool,
    redis: bool,
}

impl Machine {
    /// Looks at this one.
    pub fn look() -> Self {
        let memory = fs::read(Path::new("/proc/meminfo")).ok().and_then(|text| {
            let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
            total.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
        });
        let redis = SocketAddr::from(([127, 0, 0, 1], 6379));
        Self {
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory: memory.unwrap_or(GIB),
            postgres: Path::new("/var/run/postgresql/.s.PGSQL.5432").exists(),
            redis: TcpStream::connect_timeout(&redis, Duration::from_millis(300)).is_ok(),
        }
    }

    /// For a person.
    pub fn describe(&self) -> String {
        format!("{} cores, {} GiB of memory", self.cores, (self.memory + GIB / 2) / GIB)
    }

    /// Sixteen workers take some 700 MiB idle and pay off where there are cores to share; one takes 60 MiB.
    pub fn preset(&self) -> &'static str {
        if self.cores >= 4 && self.memory >= 6 * GIB {
            "one-of-each"
        } else if self.cores >= 2 && self.memory >= 2 * GIB {
            "little-federation-helper"
        } else {
            "none"
        }
    }

    pub fn database(&self) -> &'static str {
        if self.postgres { "external" } else { "embedded" }
    }

    pub fn redis(&self) -> &'static str {
        if self.redis { "external" } else { "embedded" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_of_a_machine_is_more_workers() {
        let preset =
            |cores, gib| Machine { cores, memory: gib * GIB, postgres: false, redis: false }.preset();
        assert_eq!(preset(1, 64), "none");
        assert_eq!(preset(2, 4), "little-federation-helper");
        assert_eq!(preset(8, 4), "little-federation-helper");
        assert_eq!(preset(4, 8), "one-of-each");
    }
}
