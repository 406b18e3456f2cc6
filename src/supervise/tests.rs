//! Single inputs and what comes of them; tests/simulate.rs has the long runs.

use super::*;

const POLICY: Policy = Policy { drain_timeout: 10, stop_timeout: 100, retire_timeout: 1_000 };

fn spec(name: UnitName) -> Spec {
    Spec { name, needs: Vec::new(), stage: 1, routed: true, inherits: true, overlaps: false }
}

fn main() -> Life {
    Life { unit: UnitName::main(), incarnation: Incarnation(1) }
}

fn effects(core: &mut Supervisor) -> Vec<Effect> {
    std::iter::from_fn(|| core.poll_effect()).collect()
}

#[test]
fn who_was_told_to_end_is_told_again_by_the_next_supervisor() {
    // Mutation: `ending` not looked at: seen red.
    let mut core = Supervisor::new(POLICY, 1);
    let main = UnitName::main();
    let incarnation = Incarnation(7);
    let kept = Kept {
        spec: spec(main.clone()),
        incarnation,
        alive: Some(false),
        ending: true,
        wanted: true,
        leaving: false,
        retired: Vec::new(),
    };
    core.handle(Input::Adopt(vec![kept]), Time(0));
    let life = Life { unit: main, incarnation };
    assert_eq!(core.poll_effect(), Some(Effect::Signal(life, Ending::Terminate)));
    assert_eq!(core.poll_timeout(), Some(Time(100)));
}

#[test]
fn a_new_policy_holds_for_the_next_stop() {
    // Mutation: set_policy() that does nothing: seen red.
    let mut core = Supervisor::new(POLICY, 1);
    core.handle(Input::Desire(vec![spec(UnitName::main())]), Time(0));
    core.handle(Input::Ready(main()), Time(1));
    core.set_policy(Policy { drain_timeout: 20, stop_timeout: 200, ..POLICY });
    core.handle(Input::Order(Ticket(1), Verb::Stop, vec![UnitName::main()]), Time(2));
    assert_eq!(core.poll_timeout(), Some(Time(22)));
    core.handle_timeout(Time(22));
    assert_eq!(core.poll_timeout(), Some(Time(222)));
}

/// The process of a unit that overlaps.
fn router(incarnation: u64) -> Life {
    Life { unit: UnitName::router(), incarnation: Incarnation(incarnation) }
}

/// A core whose router is READY for the second time; the first one is retired since time 10.
fn handed_over() -> Supervisor {
    let mut core = Supervisor::new(POLICY, 1);
    let name = UnitName::router();
    core.handle(
        Input::Desire(vec![Spec { routed: false, inherits: false, overlaps: true, ..spec(name) }]),
        Time(0),
    );
    core.handle(Input::Ready(router(1)), Time(5));
    effects(&mut core);
    core.handle(
        Input::Order(Ticket(1), Verb::Restart { at_once: false }, vec![UnitName::router()]),
        Time(10),
    );
    assert_eq!(effects(&mut core), [Effect::Retire(router(1)), Effect::Start(router(2))]);
    core.handle(Input::Ready(router(2)), Time(20));
    let done = Effect::Reply(Ticket(1), Outcome::Done);
    assert_eq!(effects(&mut core), [Effect::Reached(Ticket(1), UnitName::router()), done]);
    core
}

#[test]
fn who_overlaps_is_replaced_at_once_and_its_predecessor_has_a_limit() {
    // Mutations, each seen red: the limit of a drain taken; no SIGKILL; SIGTERM at every tick.
    let mut core = handed_over();
    assert!(core.is_retired(&router(1)) && !core.is_retired(&router(2)));
    assert_eq!(core.poll_timeout(), Some(Time(1_010)));
    core.handle_timeout(Time(1_009));
    assert_eq!(effects(&mut core), []);
    core.handle_timeout(Time(1_010));
    assert_eq!(effects(&mut core), [Effect::Signal(router(1), Ending::Terminate)]);
    assert_eq!(core.poll_timeout(), Some(Time(1_110)));
    core.handle_timeout(Time(1_110));
    assert_eq!(effects(&mut core), [Effect::Signal(router(1), Ending::Kill)]);
    assert_eq!(core.poll_timeout(), None);
    core.handle(Input::Exited { life: router(1), exit: Exit::Signal(9), detail: None }, Time(1_111));
    assert_eq!(effects(&mut core), []);
    assert_eq!(core.ready(&UnitName::router()), Some(router(2)));
}

#[test]
fn a_stop_waits_for_the_predecessors_too() {
    // Mutations, each seen red: the order answered, and `Finished` said, while one lives; the retired left alone.
    for shutdown in [false, true] {
        let mut core = handed_over();
        if shutdown {
            core.handle(Input::Shutdown, Time(30));
        } else {
            core.handle(Input::Order(Ticket(2), Verb::Stop, vec![UnitName::router()]), Time(30));
        }
        let mut told = effects(&mut core);
        told.sort_by_key(|effect| format!("{effect:?}"));
        let terminate = |incarnation| Effect::Signal(router(incarnation), Ending::Terminate);
        assert_eq!(told, [terminate(1), terminate(2)]);
        core.handle(Input::Exited { life: router(2), exit: Exit::Code(0), detail: None }, Time(31));
        assert_eq!(effects(&mut core), []);
        core.handle(Input::Exited { life: router(1), exit: Exit::Code(0), detail: None }, Time(32));
        let last = if shutdown { Effect::Finished } else { Effect::Reply(Ticket(2), Outcome::Done) };
        assert_eq!(effects(&mut core).pop(), Some(last));
    }
}

#[test]
fn who_was_retired_is_told_again_by_the_next_supervisor_and_is_not_taken_for_the_present_one() {
    // Mutation: the end of a retired process not noted: seen red.
    let mut core = Supervisor::new(POLICY, 1);
    let kept = Kept {
        spec: Spec { overlaps: true, routed: false, ..spec(UnitName::router()) },
        incarnation: Incarnation(2),
        alive: None,
        ending: false,
        wanted: true,
        leaving: false,
        retired: vec![Incarnation(1), Incarnation(2)],
    };
    core.handle(Input::Adopt(vec![kept]), Time(0));
    let expected = [Effect::Retire(router(1)), Effect::Retire(router(2)), Effect::Start(router(3))];
    assert_eq!(effects(&mut core), expected);
    core.handle(Input::Exited { life: router(2), exit: Exit::Code(0), detail: None }, Time(1));
    core.handle(Input::Ready(router(3)), Time(2));
    assert_eq!(core.ready(&UnitName::router()), Some(router(3)));
    let left: Vec<_> = core.status().into_iter().flat_map(|unit| unit.retired).collect();
    assert_eq!(left.iter().map(|retired| retired.incarnation).collect::<Vec<_>>(), [Incarnation(1)]);
}

#[test]
fn who_is_ordered_to_start_while_it_is_stuck_sits_out_no_delay() {
    // Mutation: Stuck left out where an order to start replaces what is delayed: seen red.
    let mut core = Supervisor::new(POLICY, 1);
    core.handle(Input::Desire(vec![spec(UnitName::main())]), Time(0));
    let life = |incarnation| Life { unit: UnitName::main(), incarnation: Incarnation(incarnation) };
    let end = |core: &mut Supervisor, life, now| {
        core.handle(Input::Exited { life, exit: Exit::Signal(9), detail: None }, now);
    };
    // Once more than a unit restarts at once in a minute.
    for incarnation in 1..=11 {
        let now = Time(incarnation);
        core.handle(Input::Ready(life(incarnation)), now);
        core.handle(Input::Stuck(life(incarnation), "no answer".to_owned()), now);
        if incarnation < 11 {
            end(&mut core, life(incarnation), now);
        }
    }
    core.handle(Input::Order(Ticket(1), Verb::Start, vec![UnitName::main()]), Time(20));
    end(&mut core, life(11), Time(21));
    let effects = effects(&mut core);
    assert!(effects.contains(&Effect::Start(life(12))), "{effects:?}");
}

/// A core with a service that is READY and main, which needs it and has begun to start.
fn with_service() -> (Supervisor, Life) {
    let mut core = Supervisor::new(POLICY, 1);
    let service = UnitName::new("postgres");
    let needs = vec![(service.clone(), When::ReadyNow)];
    let specs = vec![
        Spec { stage: 0, routed: false, inherits: false, ..spec(service.clone()) },
        Spec { needs, ..spec(UnitName::main()) },
    ];
    core.handle(Input::Desire(specs), Time(0));
    let service = Life { unit: service, incarnation: Incarnation(1) };
    core.handle(Input::Ready(service.clone()), Time(1));
    assert_eq!(effects(&mut core), [Effect::Start(service.clone()), Effect::Start(main())]);
    (core, service)
}

#[test]
fn a_service_that_goes_disturbs_nobody_and_who_has_to_start_waits_for_it() {
    let (mut core, mut service) = with_service();
    core.handle(Input::StartFailed(service.clone(), "no answer".to_owned()), Time(2));
    service.incarnation = Incarnation(2);
    assert_eq!(effects(&mut core), [Effect::Start(service.clone())], "it is looked for, and main is let be");
    core.handle(Input::Exited { life: main(), exit: Exit::Code(1), detail: None }, Time(4));
    core.handle_timeout(core.status()[0].retry_at.unwrap());
    assert_eq!(effects(&mut core), []);
    assert_eq!(core.status()[0].waits_for, [service.unit.clone()]);
    core.handle(Input::Ready(service), Time(9_000));
    assert_eq!(effects(&mut core), [Effect::Start(Life { incarnation: Incarnation(2), ..main() })]);
}

#[test]
fn who_cannot_be_started_is_tried_again_within_a_minute_for_ever() {
    let (mut core, _) = with_service();
    let mut now = Time(10);
    for incarnation in 1..=20 {
        let life = Life { incarnation: Incarnation(incarnation), ..main() };
        core.handle(Input::StartFailed(life, "too many open files".to_owned()), now);
        let retry = core.status()[0].retry_at.unwrap();
        assert_eq!(core.status()[0].state, "backoff");
        assert!(retry.since(now) <= 60_000, "{retry:?}");
        now = retry;
        core.handle_timeout(now);
    }
}
