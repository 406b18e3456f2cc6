//! The table of rules read a second time, by its columns: sample paths of every rule, and who must answer them.

const TABLE: &str = include_str!("../../src/route/rules.tsv");

/// A line of the table.
pub(crate) struct Line {
    pub(crate) number: usize,
    pub(crate) methods: Vec<&'static str>,
    pub(crate) pattern: &'static str,
    pub(crate) class: &'static str,
    pub(crate) sticky: &'static str,
    pub(crate) eligible: &'static str,
    pub(crate) preferred: &'static str,
    pub(crate) strict: bool,
    pub(crate) query: &'static str,
}

pub(crate) fn lines() -> Vec<Line> {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#')).enumerate();
    let lines = lines.map(|(at, line)| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [methods, pattern, class, sticky, eligible, preferred, strict, query] = fields[..] else {
            panic!("line {} has {} fields", at + 1, fields.len())
        };
        Line {
            number: at + 1,
            methods: if methods == "*" { vec!["GET", "POST", "PATCH"] } else { methods.split(',').collect() },
            pattern,
            class,
            sticky,
            eligible,
            preferred,
            strict: strict == "strict",
            query,
        }
    });
    lines.collect()
}

/// A query under which a line fits, and no earlier line with a condition does.
pub(crate) fn query(line: &Line) -> &'static str {
    match (line.query, line.class) {
        (_, "sync") => "since=s1&from=s1",
        ("-", _) | (_, "initial_sync") => "",
        (other, _) => panic!("write down a query for {other}"),
    }
}

/// Every path that a pattern describes: all alternatives, optional parts left out and put in, wildcards by example.
pub(crate) fn samples(pattern: &str) -> Vec<String> {
    let mut rest = pattern.strip_prefix('^').unwrap();
    let found = alternatives(&mut rest);
    assert!(rest.is_empty(), "{pattern}: what is {rest}?");
    found
}

/// Up to the closing parenthesis or the end.
fn alternatives(rest: &mut &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut branch = vec![String::new()];
    while let Some(sign) = rest.chars().next() {
        if sign == ')' {
            break;
        }
        if let Some(after) = rest.strip_prefix('|') {
            *rest = after;
            found.append(&mut branch);
            branch = vec![String::new()];
            continue;
        }
        let mut piece = atom(rest);
        if let Some(after) = rest.strip_prefix('?') {
            *rest = after;
            piece.push(String::new());
        }
        let joined = branch.iter().flat_map(|head| piece.iter().map(move |tail| format!("{head}{tail}")));
        branch = joined.collect();
    }
    found.append(&mut branch);
    found
}

fn atom(rest: &mut &str) -> Vec<String> {
    // Wildcards of the table, each with what may stand in its place; `[^/]*` may also be empty.
    let wildcards: [(&str, &[&str]); 6] = [
        ("[^/]*", &["!r:hs", "w", "%21r%3Ahs"]),
        ("[^/]+", &["w"]),
        ("[\\w\\.]*", &["m.login.dummy"]),
        ("[A-Za-z0-9_.~-]+", &["oidc-x"]),
        (".*", &["", "global/override/.x"]),
        ("$", &[""]),
    ];
    for (wildcard, examples) in wildcards {
        if let Some(after) = rest.strip_prefix(wildcard) {
            *rest = after;
            return examples.iter().map(|example| (*example).to_owned()).collect();
        }
    }
    if let Some(inner) = rest.strip_prefix("(?:").or_else(|| rest.strip_prefix('(')) {
        *rest = inner;
        let found = alternatives(rest);
        *rest = rest.strip_prefix(')').unwrap();
        return found;
    }
    *rest = rest.strip_prefix('\\').unwrap_or(rest);
    let sign = rest.chars().next().unwrap();
    assert!(!"[]{}*+?^".contains(sign), "write down what stands for {rest}");
    *rest = &rest[sign.len_utf8()..];
    vec![sign.to_string()]
}

/// Who answers by the table's columns: each tier is asked once those before it are down.
pub(crate) fn owners(line: &Line, preset: &str) -> Vec<&'static str> {
    if ["none", "little-federation-helper"].contains(&preset) {
        return vec!["main"];
    }
    let special = preset == "specialized-workers";
    let reader = if special { "client-reader-1" } else { "generic-1" };
    let room = if special { "room-1" } else { "generic-1" };
    let sync = if special { "sync-1" } else { "generic-1" };
    let federation = if special { "federation-reader-1" } else { "generic-1" };
    let about_a_room = line.sticky == "room" || line.class == "federation_single_room";
    let mut tiers = match line.preferred {
        "main" | "sso" => vec!["main"],
        _ if line.eligible.starts_with("media&writer:") => vec!["quarantined-media-changes-1"],
        "media_repository" => vec!["media-repository-1"],
        "client_reader" | "federation_reader" if about_a_room => {
            let second = if line.preferred == "client_reader" { reader } else { federation };
            vec![room, second, "main"]
        }
        "client_reader" | "mas_helper" => vec![reader, "main"],
        "event_creator" => vec![room, reader, "main"],
        "initial_synchrotron" | "synchrotron" | "sliding_sync" => vec![sync, reader, "main"],
        "federation_reader" | "federation_inbound" => vec![federation, "main"],
        "user_dir" => vec!["user-dir-1", reader, "main"],
        // No preset has a writer for it.
        "writer:thread_subscriptions" if line.strict => vec!["main"],
        "writer:thread_subscriptions" => vec![reader, "main"],
        writer => {
            let unit = match writer.strip_prefix("writer:").unwrap() {
                "typing" => "typing-1",
                "to_device" => "to-device-1",
                "account_data" => "account-data-1",
                "receipts" => "receipts-1",
                "presence" => "presence-1",
                "push_rules" => "push-rules-1",
                "device_lists" => "device-lists-1",
                other => panic!("write down who writes {other}"),
            };
            if line.strict { vec![unit] } else { vec![unit, reader, "main"] }
        }
    };
    tiers.dedup();
    tiers
}
