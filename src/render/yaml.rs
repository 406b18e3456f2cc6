//! YAML that PyYAML reads as what was meant.

use toml::Table;

const HEAD: &str =
    "# Written by synvisor from its TOML file; a change made here is lost at the next reload.\n";

/// A YAML document of settings.
///
/// serde-saphyr quotes what YAML 1.1 would take for a number, a date or a boolean; PyYAML is a YAML 1.1 parser.
pub(super) fn document(settings: &Table) -> String {
    // Strings, numbers, booleans, lists and maps with string keys always have a form in YAML.
    let body = serde_saphyr::to_string(settings).unwrap_or_default();
    format!("{HEAD}{body}")
}
