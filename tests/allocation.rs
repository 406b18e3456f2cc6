//! Deciding about a request allocates nothing: memory is not what a flood of requests can use up there.
#![expect(unsafe_code, reason = "an allocator that counts is unsafe by its nature")]

use std::alloc::GlobalAlloc;
use std::alloc::Layout;
use std::alloc::System;
use std::cell::Cell;
use std::path::Path;

use synvisor::config::Config;
use synvisor::route::Clues;
use synvisor::route::Decision;
use synvisor::route::RequestHead;
use synvisor::route::RouteTable;
use synvisor::topology::Topology;

/// The system's allocator, which counts what this thread asks for.
struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

fn count() -> usize {
    COUNT.with(Cell::get)
}

// SAFETY: every call is passed on as it came; the counter is a thread-local cell without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_decision_allocates_nothing() {
    // Mutations, each seen red: the letter, the method and the path joined before they are matched; the decoded room id
    // collected.
    let toml = "server_name = \"a.b\"\n[workers]\npreset = \"specialized-workers\"\nroom = 40\nsync = 40\n\
                client_reader = 40\nfederation_reader = 40";
    let table = RouteTable::of(&Topology::of(&Config::parse(toml, Path::new("/")).unwrap().config));
    let long = format!("/_matrix/client/v3/rooms/%21{}/members", "x%3a".repeat(10_000));
    let paths = [
        "/_matrix/client/v3/sync",
        "/_matrix/client/v3/rooms/%21r%3Ahs/messages",
        "/_matrix/client/v3/rooms/!r/typing/@u:hs",
        "/_matrix/client/v3/login",
        "/_matrix/client/v3/profile/@u:hs",
        "/_matrix/client/versions",
        "/_matrix/federation/v1/send/1",
        "/_matrix/federation/v1/state/!r:hs",
        "/_matrix/media/v3/upload",
        "/_synapse/admin/v1/rooms",
        "/_synapse/replication/x",
        "/nothing",
        "",
        &long,
    ];
    let clues = [
        (Some("Bearer syt_YWxpY2U_x_1"), "since=s1"),
        (Some("X-Matrix origin=\"hs\",key=\"k\",sig=\"s\""), "limit=1&full_state=true"),
        (None, "access_token=syt_YWxpY2U_x_1"),
        (None, ""),
    ];
    let before = count();
    let counted = Box::new(before);
    assert_eq!(count(), before + 1, "the allocator does not count");
    drop(counted);
    let (mut decided, before) = (0, count());
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        for path in paths {
            for (authorization, query) in clues {
                for admin in [false, true] {
                    let Decision::To(route) = table.decide(&RequestHead { method, path, query, admin })
                    else {
                        continue;
                    };
                    for client in [None, Some([192, 0, 2, 1].into())] {
                        let clues = Clues { path, query, authorization, client };
                        let key = RouteTable::key(route, &clues, decided);
                        for up in [true, false] {
                            std::hint::black_box(table.choose(route, key, |_| up));
                            decided += 1;
                        }
                    }
                }
            }
        }
    }
    let allocated = count() - before;
    assert_eq!(allocated, 0, "{allocated} allocations in {decided} decisions");
    assert!(decided > 1_000, "{decided}");
}
