//! The routing table held against the installed Synapse.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::path::Path;

use synvisor::host::servlets;
use synvisor::route::Rules;
use synvisor::route::TABLE;
use synvisor::route::verify::Endpoint;
use synvisor::route::verify::Finding;
use synvisor::route::verify::compare;

fn endpoints() -> Vec<Endpoint> {
    let venv = std::env::var("SYNVISOR_TEST_VENV").expect(
        "SYNVISOR_TEST_VENV must name a virtualenv with Synapse: run `make test`, which prepares one and sets it",
    );
    servlets::registered(Path::new(&venv), None).unwrap()
}

#[test]
fn the_table_is_that_of_the_installed_synapse_and_every_gap_is_named() {
    // Mutations, each seen red: `OnlyMain` never found; `WorkersToo` never found; `Gone` never found.
    let endpoints = endpoints();
    assert!(endpoints.len() > 300, "{}", endpoints.len());
    assert!(endpoints.iter().all(|endpoint| !endpoint.samples.is_empty()));
    assert_eq!(compare(Rules::get(), &endpoints), []);

    // Ten entries less: rules of workers and of main, each missed by the name of its path.
    let lines: Vec<&str> = TABLE.lines().collect();
    let rules = lines.iter().filter(|line| !line.starts_with('#')).count();
    let missing = [11, 20, 40, 60, 80, 100, 130, 160, 200, 240];
    let mut number = 0;
    let kept = lines.iter().filter(|line| {
        number += usize::from(!line.starts_with('#'));
        line.starts_with('#') || !missing.contains(&number)
    });
    let table = kept.copied().collect::<Vec<_>>().join("\n").leak();
    let thinned = Rules::of(table);
    assert_eq!(thinned.all.len(), rules - missing.len());
    let findings = compare(&thinned, &endpoints);
    for number in missing {
        let rule = &Rules::get().all[number - 1];
        let named = |finding: &Finding| match finding {
            Finding::Unknown { request, .. }
            | Finding::OnlyMain { request, .. }
            | Finding::WorkersToo { request, .. } => {
                let (method, path) = request.split_once(' ').unwrap();
                Rules::get().first(method, path, "").is_some_and(|found| found.number == rule.number)
            }
            Finding::Gone { .. } => false,
        };
        assert!(findings.iter().any(named), "rule {number} {} is not missed: {findings:#?}", rule.pattern);
    }

    // What moves to main, what workers learn, and what goes away.
    let mut moved = endpoints.clone();
    let of = |pattern: &str| endpoints.iter().position(|held| held.pattern.ends_with(pattern)).unwrap();
    moved[of("/joined_rooms$")].worker = false;
    moved[of("/account/password$")].worker = true;
    moved.retain(|held| !held.pattern.ends_with("/capabilities$"));
    let found = compare(Rules::get(), &moved);
    let has = |wanted: fn(&Finding) -> bool, path: &str| {
        found.iter().any(|finding| wanted(finding) && finding.to_string().contains(path))
    };
    assert!(has(|finding| matches!(finding, Finding::OnlyMain { .. }), "/joined_rooms"), "{found:#?}");
    assert!(has(|finding| matches!(finding, Finding::WorkersToo { .. }), "/account/password"), "{found:#?}");
    assert!(has(|finding| matches!(finding, Finding::Gone { .. }), "/capabilities"), "{found:#?}");
}

#[test]
fn what_is_left_to_the_matrix_authentication_service_is_known() {
    // Mutations, each seen red: a pattern taken away; one of a path that stays put in.
    let endpoints = endpoints();
    let of = |wanted: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<(usize, &str)> {
        let held = endpoints.iter().filter(|endpoint| wanted(endpoint));
        let requests =
            held.flat_map(|held| held.samples.iter().map(|path| (held.method.replace('*', "GET"), path)));
        let rules = requests.filter_map(|(method, path)| Rules::get().first(&method, path, ""));
        rules.map(|rule| (rule.number, rule.pattern)).collect()
    };
    let has = |endpoint: &Endpoint, variant: &str| endpoint.variants.iter().any(|name| name == variant);
    let without = of(&|endpoint| has(endpoint, "plain") || has(endpoint, "sso"));
    let with = of(&|endpoint| has(endpoint, "mas"));
    let gone: BTreeSet<_> = without.difference(&with).copied().collect();
    let known = Rules::get().all.iter().filter(|rule| rule.is_delegated());
    // SAML is not among what is asked here.
    let known: BTreeSet<_> = known.map(|rule| (rule.number, rule.pattern)).collect();
    let known = known.into_iter().filter(|(_, pattern)| !pattern.contains("saml2")).collect::<BTreeSet<_>>();
    assert_eq!(gone, known);
    // And what only it brings is routed to workers, as they answer it.
    let brought: BTreeSet<_> = with.difference(&without).map(|(number, _)| *number).collect();
    let mas = Rules::get().first("POST", "/_synapse/mas/provision_user", "").unwrap();
    assert!(mas.class == "mas" && brought.contains(&mas.number), "{brought:?}");
}
