//! What the router tells of its work.

use super::harness::Harness;
use super::harness::OK;
use super::harness::TYPING;
use super::harness::VERSIONS;
use super::harness::accept;
use super::harness::answer;
use super::harness::header;

const METRICS: &str = "/_synvisor/metrics";

/// The value of a metric with these labels, in whatever order.
fn value(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let name = format!("synvisor_router_{name}");
    let mut lines = text.lines().filter(|line| {
        line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    let value = lines.next()?.rsplit(' ').next()?.parse().ok();
    assert!(lines.next().is_none(), "{name} {labels:?} more than once in {text}");
    value
}

fn metrics(harness: &Harness) -> String {
    let mut client = harness.request("GET", METRICS);
    let (head, text) = client.response();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(
        header(&head, "content-type").unwrap().split(';').next(),
        Some("application/openmetrics-text")
    );
    assert!(text.ends_with("# EOF\n"));
    text
}

#[test]
fn requests_are_counted_where_they_went_and_as_they_ended() {
    // Mutations, each seen red: the unit left out of the labels; nothing counted for what the router answers itself; a
    // request in flight never given back.
    let mut harness = Harness::new();
    harness.sockets[0].1 = true;
    harness.table();
    let generic = harness.up("generic-1", 1);
    let mut client = harness.request("GET", VERSIONS);
    let mut server = accept(&generic);
    server.head();
    assert_eq!(value(&metrics(&harness), "in_flight", &["generic-1"]), Some(1.0));
    server.send("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno");
    client.response();
    let head = harness.request("GET", "/_synapse/metrics").head();
    assert!(head.starts_with("HTTP/1.1 404 "));
    let text = metrics(&harness);
    assert_eq!(value(&text, "in_flight", &["generic-1"]), Some(0.0));
    assert_eq!(value(&text, "requests_total", &["unit=\"generic-1\"", "status=\"4xx\""]), Some(1.0));
    assert_eq!(value(&text, "requests_total", &["class=\"router\"", "status=\"4xx\""]), Some(1.0));
    assert_eq!(value(&text, "request_duration_seconds_count", &["generic-1"]), Some(1.0));
    assert_eq!(value(&text, "upstream_duration_seconds_count", &["generic-1"]), Some(1.0));
    let open = value(&text, "connections", &[]).unwrap();
    assert!(open >= 1.0, "{open}");
}

#[test]
fn who_waits_is_seen_and_what_a_restart_cost_is_counted() {
    // Mutations, each seen red: the depth not lowered when a request goes; a replay not counted.
    let mut harness = Harness::new();
    harness.sockets[0].1 = true;
    harness.table();
    let mut waiting = harness.request("PUT", TYPING);
    harness.parked("typing-1", 1);
    let text = metrics(&harness);
    assert_eq!(value(&text, "queue_depth", &["typing-1"]), Some(1.0));
    let typing = harness.up("typing-1", 1);
    accept(&typing).head();
    let _server = answer(&typing);
    waiting.response();
    let text = metrics(&harness);
    assert_eq!(value(&text, "queue_depth", &["typing-1"]), Some(0.0));
    // Before the first process, and again when that had lost it.
    assert_eq!(value(&text, "parked_total", &["typing-1"]), Some(2.0));
    assert_eq!(value(&text, "replayed_total", &["typing-1"]), Some(1.0));
    assert_eq!(value(&text, "parked_duration_seconds_count", &["typing-1"]), Some(1.0));
}

#[test]
fn metrics_are_for_the_listener_that_says_so() {
    // Mutation: served on every listener: seen red.
    let mut harness = Harness::new();
    let main = harness.up("main", 1);
    let mut client = harness.request("GET", METRICS);
    let mut server = accept(&main);
    server.head();
    server.send(OK);
    assert_eq!(client.response().1, "ok", "it is a path like any other there");
}
