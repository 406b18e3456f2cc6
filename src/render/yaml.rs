//! YAML that PyYAML reads as what was meant.

use toml::Table;

const HEAD: &str =
    "# Written by synvisor from its TOML file; a change made here is lost at the next reload.\n";

/// A YAML document of settings.
///
/// serde-saphyr quotes what YAML 1.1 would take for a number, a date or a boolean; PyYAML is a YAML 1.1 parser.
pub(super) fn document(settings: &Table) -> String {
    let body = serde_saphyr::to_string(settings);
    let body =
        body.unwrap_or_else(|error| unreachable!("a table of TOML values has a form in YAML: {error}"));
    format!("{HEAD}{body}")
}
