//! What a changed setting asks of the processes that it concerns; what the table does not list asks for a restart of each
//! whose file differs.

use std::sync::LazyLock;

/// A row a setting: effect, whom it concerns, why they go together, and where Synapse says so.
const TABLE: &str = include_str!("matrix.tsv");

/// What a changed setting asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Effect {
    /// It is read anew on SIGHUP.
    Hup,
    /// A restart of each process whose file differs, one after the other.
    Restart,
    /// The old and the new holder of a duty and nobody else, the old one first.
    Handover,
    /// All old and new pushers together.
    Pushers,
    /// All old and new federation senders together, and main.
    Senders,
    /// Every process of Synapse together.
    Full,
}

/// Whom a setting concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Concerned {
    All,
    /// Who serves media.
    Media,
}

/// A setting, or a table of settings, and what its change asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Names with dots between them, as in `caches.global_factor`.
    pub(super) setting: &'static str,
    pub(super) effect: Effect,
    pub(super) concerned: Concerned,
    /// Why processes must go down together; empty where they need not.
    pub(super) why: &'static str,
}

const DEFAULT: Rule = Rule { setting: "", effect: Effect::Restart, concerned: Concerned::All, why: "" };

fn rule(line: &'static str) -> Option<Rule> {
    let mut columns = line.split('\t');
    let setting = columns.next().filter(|setting| !setting.starts_with('#'))?;
    let effect = match columns.next()? {
        "hup" => Effect::Hup,
        "restart" => Effect::Restart,
        "handover" => Effect::Handover,
        "pushers" => Effect::Pushers,
        "senders" => Effect::Senders,
        "full" => Effect::Full,
        _ => return None,
    };
    let concerned = match columns.next()? {
        "all" => Concerned::All,
        "media" => Concerned::Media,
        _ => return None,
    };
    let why = columns.next()?;
    // The last column is the source.
    columns.next()?;
    Some(Rule { setting, effect, concerned, why })
}

/// Read once: a plan asks for as many rules as settings differ, in each of its processes.
static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| TABLE.lines().filter_map(rule).collect());

/// The rule for a setting: that of the longest name in the table that it begins with.
pub(super) fn of(setting: &str) -> Rule {
    let fits = |rule: &Rule| {
        setting.strip_prefix(rule.setting).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    RULES.iter().filter(|rule| fits(rule)).max_by_key(|rule| rule.setting.len()).copied().unwrap_or(DEFAULT)
}

/// The settings that hand a duty from one process to another.
pub(super) fn duties() -> impl Iterator<Item = &'static str> {
    RULES.iter().filter(|rule| rule.effect == Effect::Handover).map(|rule| rule.setting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings;

    #[test]
    fn every_line_is_read_and_names_a_setting_of_synapse() {
        // Mutations, each seen red: a row with an effect that there is not; `instance_maps`.
        assert_eq!(RULES.len(), TABLE.lines().count() - 1);
        let names: Vec<&str> = RULES.iter().map(|rule| rule.setting).collect();
        assert!(names.is_sorted());
        for name in names {
            let top = name.split('.').next().unwrap();
            assert!(settings::names().any(|setting| setting == top), "{name}");
        }
    }

    #[test]
    fn who_goes_together_is_told_why() {
        for rule in RULES.iter() {
            let together = rule.effect > Effect::Restart;
            assert_eq!(together, !rule.why.is_empty(), "{}", rule.setting);
        }
    }

    #[test]
    fn the_longest_name_counts_and_only_whole_names_do() {
        // Mutations, each seen red: `max_by_key` as `min_by_key`; the dot not looked for.
        assert_eq!(of("database.args.cp_max").effect, Effect::Restart);
        assert_eq!(of("database.args.host").effect, Effect::Full);
        assert_eq!(of("caches.per_cache_factors.get_users_in_room").effect, Effect::Hup);
        assert_eq!(of("caches.expire_caches").effect, Effect::Restart);
        assert_eq!(of("redis_of_another_kind"), DEFAULT);
        assert_eq!(of("oidc_providers"), DEFAULT);
    }
}
