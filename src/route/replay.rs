//! Whether a request that was sent may be sent again, and what of it is still to be waited for.

use super::rules::Rule;

/// What the methods of the rules do not say; its head explains it.
pub const REPLAYS: &str = include_str!("replay.tsv");

/// What may become of a request whose process ended before it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    Never,
    Always,
    /// Where the access token belongs to a device.
    Device,
    /// Always, and it is taken back when its process stops: it only waits for news.
    Poll,
}

/// A line of the table.
struct Line {
    verdict: Replay,
    methods: &'static str,
    class: &'static str,
    pattern: &'static str,
}

impl Line {
    fn parse(line: &'static str) -> Option<Self> {
        let fields: Vec<&'static str> = line.split('\t').collect();
        let [verdict, methods, class, pattern, _source] = fields[..] else { return None };
        let verdict = match verdict {
            "never" => Replay::Never,
            "always" => Replay::Always,
            "device" => Replay::Device,
            "poll" => Replay::Poll,
            _ => return None,
        };
        Some(Self { verdict, methods, class, pattern })
    }
}

/// Every line of the table that says something of these rules.
pub(super) fn exceptions(rules: &mut [Rule]) {
    for line in REPLAYS.lines().filter_map(Line::parse) {
        for rule in rules.iter_mut() {
            if rule.class == line.class && rule.pattern == line.pattern {
                let of_rule = line.methods.split(',').map(|method| (method, line.verdict));
                rule.replays.extend(of_rule);
            }
        }
    }
}

impl Rule {
    /// What may become of a request of this rule.
    pub fn replay(&self, method: &str) -> Replay {
        if method == "OPTIONS" {
            return Replay::Always;
        }
        match self.replays.iter().find(|(name, _)| *name == method) {
            Some((_, verdict)) => *verdict,
            // A rule for any method is of something that is no servlet: nobody knows what its GET does.
            None if matches!(method, "GET" | "HEAD") && !self.takes_any_method() => Replay::Always,
            None => Replay::Never,
        }
    }
}

impl Replay {
    /// Whether this very request may be sent again.
    pub fn allows(self, query: &str, authorization: Option<&str>) -> bool {
        match self {
            Self::Never => false,
            Self::Always | Self::Poll => !is_delayed(query),
            Self::Device => !is_delayed(query) && authorization.is_some_and(has_device),
        }
    }
}

/// A delayed event is scheduled anew by each request (`rest/client/room.py`, Synapse 1.163: `delayed_events_handler.add`
/// before any look at the transaction); its name may be percent-encoded.
fn is_delayed(query: &str) -> bool {
    query.split('&').any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        name.contains("delay") || name.contains('%')
    })
}

/// Tokens of users: Synapse's own (`handlers/auth.py`, `generate_access_token`) and those of the Matrix Authentication
/// Service. An application service's token has a form of its own and no device, so that its transactions are not kept.
/// One that an administrator made to act for a user (`rest/admin/users.py`, UserTokenRestServlet) has no device either,
/// and nothing that tells it apart: who uses one may see a message twice whose process died between storing and answering.
fn has_device(authorization: &str) -> bool {
    authorization.split_once(' ').is_some_and(|(scheme, token)| {
        let token = token.trim_start();
        scheme.eq_ignore_ascii_case("bearer")
            && ["syt_", "mat_", "mct_"].iter().any(|prefix| token.starts_with(prefix))
    })
}

/// The query with its `timeout` (milliseconds, of which Synapse reads the first) lowered by what has passed since the
/// client asked; `None` where it has none, or none that is a number.
pub fn with_time_left(query: &str, passed_ms: u64) -> Option<String> {
    let mut start = 0;
    let pair = query.split('&').find(|pair| {
        let found = pair.starts_with("timeout=");
        start += if found { "timeout=".len() } else { pair.len() + 1 };
        found
    })?;
    let value = &pair["timeout=".len()..];
    let timeout: u64 = value.parse().ok().filter(|_| value.bytes().all(|byte| byte.is_ascii_digit()))?;
    let (before, after) = (&query[..start], &query[start + value.len()..]);
    Some(format!("{before}{}{after}", timeout.saturating_sub(passed_ms)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::collections::BTreeSet;

    use super::super::rules::Rules;
    use super::*;

    /// What may be done with a request, found as the router finds it.
    fn of(method: &str, path: &str) -> Replay {
        let rule = Rules::get().first(method, path, "since=s1").unwrap();
        rule.replay(method)
    }

    #[test]
    fn every_line_is_of_a_rule_and_says_something_new() {
        // Mutations, each seen red: a pattern that no rule has; a GET that is `always`.
        let rules = Rules::get();
        let lines: Vec<&str> = REPLAYS.lines().filter(|line| !line.starts_with('#')).collect();
        for text in &lines {
            let line = Line::parse(text).unwrap_or_else(|| unreachable!("{text}"));
            let mut found = rules.all.iter().filter(|rule| {
                let has =
                    |method| rule.takes_any_method() || rule.methods().split(',').any(|held| held == method);
                rule.class == line.class && rule.pattern == line.pattern && line.methods.split(',').all(has)
            });
            let rule = found.next().unwrap_or_else(|| unreachable!("no rule for {text}"));
            let reads = line.methods == "GET,HEAD" && !rule.takes_any_method();
            let default = if reads { Replay::Always } else { Replay::Never };
            assert_ne!(line.verdict, default, "{text}");
        }
        let distinct: BTreeSet<_> = lines.iter().collect();
        assert_eq!(distinct.len(), lines.len());
    }

    #[test]
    fn what_may_be_sent_again_is_this_and_nothing_else() {
        // Mutation: a line for sendToDevice: seen red.
        let mut classes: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for rule in &Rules::get().all {
            for method in
                rule.methods().split(',').filter(|method| !matches!(*method, "GET" | "HEAD" | "any"))
            {
                if rule.replay(method) != Replay::Never {
                    classes.entry(rule.class).or_default().insert(method.to_owned());
                }
            }
        }
        let pinned = [
            ("account_data", "DELETE,PUT"),
            ("client_reader", "POST"),
            ("device_lists", "PUT"),
            ("event_creation", "PUT"),
            ("federation_inbound", "PUT"),
            ("federation_reader", "POST"),
            ("federation_single_room", "POST"),
            ("main_only", "PUT"),
            ("presence", "PUT"),
            ("push_rules", "PUT"),
            ("receipts", "POST"),
            ("room_keys", "PUT"),
            ("sliding_sync", "POST"),
            ("typing", "PUT"),
            ("user_directory", "POST"),
        ];
        let found: Vec<(&str, String)> = classes
            .into_iter()
            .map(|(class, methods)| (class, methods.into_iter().collect::<Vec<_>>().join(",")))
            .collect();
        assert_eq!(found, pinned.map(|(class, methods)| (class, methods.to_owned())));
    }

    #[test]
    fn what_changes_something_each_time_is_never_sent_again() {
        // Mutation: PUT taken for safe: seen red.
        for (method, path) in [
            ("PUT", "/_matrix/client/v3/sendToDevice/m.room.encrypted/1"),
            ("POST", "/_matrix/client/v3/keys/upload"),
            ("POST", "/_matrix/client/v3/keys/claim"),
            ("POST", "/_matrix/federation/v1/user/keys/claim"),
            ("POST", "/_matrix/client/v3/createRoom"),
            ("PUT", "/_matrix/client/v3/createRoom/1"),
            ("POST", "/_matrix/client/v3/login"),
            ("POST", "/_matrix/client/v3/register"),
            ("POST", "/_matrix/client/v3/refresh"),
            ("POST", "/_matrix/client/v3/logout"),
            ("POST", "/_matrix/media/v3/upload"),
            ("PUT", "/_matrix/media/v3/upload/a.b/1"),
            ("POST", "/_matrix/client/v3/rooms/!r/send/m.room.message"),
            ("POST", "/_matrix/client/v3/rooms/!r/join"),
            ("PUT", "/_matrix/client/v3/rooms/!r/invite/1"),
            ("PUT", "/_matrix/client/v3/directory/room/%23a%3Ab"),
            ("DELETE", "/_matrix/client/v3/pushrules/global/room/x"),
            ("PUT", "/_matrix/federation/v2/send_join/!r/$e"),
            ("PUT", "/_synapse/admin/v1/send_server_notice/1"),
            ("POST", "/_synapse/admin/v1/purge_history/!r"),
            ("GET", "/_matrix/client/v3/login/sso/redirect"),
            ("GET", "/_matrix/client/v3/login/sso/redirect/oidc"),
            ("GET", "/_matrix/client/v3/login/cas/ticket"),
            ("GET", "/_synapse/client/oidc/callback"),
            ("GET", "/_synapse/client/password_reset/email/submit_token"),
            ("GET", "/_synapse/client/unsubscribe"),
            ("GET", "/_matrix/client/unstable/pushers/remove"),
            ("GET", "/_matrix/client/unstable/registration/email/submit_token"),
            ("HEAD", "/_matrix/client/unstable/add_threepid/email/submit_token"),
            ("GET", "/_matrix/client/v3/auth/m.login.sso/fallback/web"),
            ("GET", "/_matrix/client/v3/account_validity/renew"),
            ("GET", "/_synapse/admin/v1/register"),
            ("GET", "/nobody/knows"),
        ] {
            assert_eq!(of(method, path), Replay::Never, "{method} {path}");
        }
        for (method, path, replay) in [
            ("GET", "/_matrix/client/versions", Replay::Always),
            ("OPTIONS", "/_matrix/client/v3/createRoom", Replay::Always),
            ("PUT", "/_matrix/client/v3/rooms/!r/state/m.room.name/", Replay::Always),
            ("PUT", "/_matrix/client/v3/rooms/!r/send/m.room.message/1", Replay::Device),
            ("PUT", "/_matrix/federation/v1/send/1", Replay::Always),
            ("GET", "/_matrix/client/v3/sync", Replay::Poll),
            ("GET", "/_matrix/client/v3/events", Replay::Poll),
            ("POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", Replay::Poll),
        ] {
            assert_eq!(of(method, path), replay, "{method} {path}");
        }
        let initial = Rules::get().first("GET", "/_matrix/client/v3/sync", "").unwrap();
        assert_eq!(initial.replay("GET"), Replay::Always, "an initial sync works, and does not wait");
    }

    #[test]
    fn a_transaction_is_known_again_only_by_its_device() {
        // Mutations, each seen red: any token; delayed events like others.
        let user = Some("Bearer syt_YWxpY2U_one_1");
        assert!(Replay::Device.allows("", user));
        assert!(Replay::Device.allows("", Some("bearer  mat_x")));
        assert!(Replay::Device.allows("ts=1", Some("Bearer mct_x")));
        assert!(!Replay::Device.allows("", Some("Bearer an_application_service")));
        assert!(!Replay::Device.allows("", None));
        assert!(!Replay::Device.allows("org.matrix.msc4140.delay=1000", user));
        assert!(!Replay::Device.allows("org.matrix.msc4140%2edelay=1000", user));
        assert!(!Replay::Always.allows("a=1&org.matrix.msc4140.delay=1000", None));
        assert!(Replay::Always.allows("from=%40u", None));
        assert!(!Replay::Never.allows("", user));
    }

    #[test]
    fn a_client_gets_its_answer_in_the_time_that_it_asked_for() {
        // Mutations, each seen red: a name that ends so taken for it; an underflow.
        let left = |query, passed| with_time_left(query, passed);
        assert_eq!(left("since=s1&timeout=30000&x=%21", 12_000).unwrap(), "since=s1&timeout=18000&x=%21");
        assert_eq!(left("timeout=30000", 30_001).unwrap(), "timeout=0");
        assert_eq!(left("timeout=5000&timeout=7000", 1_000).unwrap(), "timeout=4000&timeout=7000");
        assert_eq!(left("xtimeout=1000&timeout=5000", 1_000).unwrap(), "xtimeout=1000&timeout=4000");
        for untouched in
            ["", "since=timeout=5", "timeout=", "timeout=+5", "timeout=1e3", "timeout", "timeouts=5"]
        {
            assert_eq!(left(untouched, 1_000), None, "{untouched}");
        }
    }
}
