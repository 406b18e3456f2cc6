"""Every process of the preset does a piece of its own work; `/health` does not count."""

from __future__ import annotations

import re
import uuid

import pytest

from tests.support.deployment import wait_for
from tests.support.matrix import quote

from .conftest import World


def count(metrics: str, metric: str, /, **labels: str) -> float:
    """The sum of a metric's series that carry these labels."""
    total = 0.0
    for line in metrics.splitlines():
        if line.startswith(metric + "{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            total += float(line.rpartition(" ")[2])
    return total


def servlets(metrics: str) -> dict[str, float]:
    """Answers by servlet, without those to the supervisor's own questions."""
    found: dict[str, float] = {}
    for line in metrics.splitlines():
        if line.startswith("synapse_http_server_response_count_total{"):
            servlet = re.search(r'servlet="([^"]*)"', line)
            assert servlet
            name = servlet.group(1)
            found[name] = found.get(name, 0) + float(line.rpartition(" ")[2])
    for own in ("HealthResource", "MetricsResource"):
        found.pop(own, None)
    return found


def wait_for_count(world: World, unit: str, metric: str, /, **labels: str) -> None:
    def positive() -> bool | None:
        return True if count(world.home.metrics(unit), metric, **labels) > 0 else None

    wait_for(f"{metric} {labels} on {unit}", positive, 60)


def test_requests_reach_the_worker_that_owns_them(world: World) -> None:
    # Mutation: strict rules sent to main in src/route/mod.rs: seen red (500 on typing).
    alice, bob = world.user(), world.user()
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    event = alice.send(room, "hello")
    bob.sync()
    me, at = quote(alice.user), f"/_matrix/client/v3/rooms/{quote(room)}"
    alice.call("PUT", f"{at}/typing/{me}", {"typing": True, "timeout": 1000})
    alice.call("POST", f"{at}/receipt/m.read/{quote(event)}", {})
    to_device = {"messages": {bob.user: {"*": {"n": 1}}}}
    alice.call("PUT", f"/_matrix/client/v3/sendToDevice/m.probe/{uuid.uuid4()}", to_device)
    alice.call("PUT", f"/_matrix/client/v3/user/{me}/account_data/m.probe", {"n": 1})
    alice.call("PUT", f"/_matrix/client/v3/presence/{me}/status", {"presence": "online"})
    rule = "/_matrix/client/v3/pushrules/global/override/probe"
    alice.call("PUT", rule, {"actions": ["notify"], "conditions": []})
    alice.call("POST", "/_matrix/client/v3/keys/upload", {})
    media = alice.upload(b"\x01" * 100_000)
    assert bob.download(media) == b"\x01" * 100_000
    world.home.administrator().call(
        "POST", f"/_synapse/admin/v1/media/quarantine/{media.removeprefix('mxc://')}", {}
    )
    world.user().call("POST", "/_matrix/client/v3/logout", {})

    expected = {
        "main": "LogoutRestServlet",
        "generic-1": "SyncRestServlet",
        "media-repository-1": "UploadServlet",
        "typing-1": "RoomTypingRestServlet",
        "receipts-1": "ReceiptRestServlet",
        "to-device-1": "SendToDeviceRestServlet",
        "account-data-1": "AccountDataServlet",
        "presence-1": "PresenceStatusRestServlet",
        "push-rules-1": "PushRuleRestServlet",
        "device-lists-1": "KeyUploadServlet",
        "quarantined-media-changes-1": "QuarantineMediaByID",
    }
    missing = {}
    for unit, servlet in expected.items():
        answered = servlets(world.home.metrics(unit))
        if not answered.get(servlet):
            missing[unit] = answered
    assert not missing


def test_events_are_persisted_by_their_writer_alone(world: World) -> None:
    alice = world.user()
    alice.send(alice.create_room(), "persisted")
    name = "synapse_background_process_start_count_total"
    wait_for_count(world, "events-1", name, name="persist_events")
    for other in ("main", "generic-1"):
        assert count(world.home.metrics(other), name, name="persist_events") == 0, other


def test_the_federation_sender_reaches_another_homeserver(world: World) -> None:
    alice, rita = world.user(), world.user(world.remote)
    room = alice.create_room(preset="public_chat")
    rita.join(room, world.home.server_name)
    alice.send(room, "over federation")
    event = rita.wait_for_message(room, "over federation")
    assert event["sender"] == alice.user
    name = "synapse_background_process_start_count_total"
    wait_for_count(world, "federation-sender-1", name, name="federation_transaction_transmission_loop")
    assert count(world.home.metrics("main"), name, name="federation_transaction_transmission_loop") == 0


def test_the_pusher_tells_the_push_gateway(world: World) -> None:
    alice, bob = world.user(), world.user()
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    pusher = {
        "kind": "http",
        "app_id": "probe",
        "pushkey": uuid.uuid4().hex,
        "app_display_name": "probe",
        "device_display_name": "probe",
        "lang": "en",
        "data": {"url": f"{world.gateway.url}/_matrix/push/v1/notify"},
    }
    bob.call("POST", "/_matrix/client/v3/pushers/set", pusher)
    alice.send(room, "push this")
    world.gateway.wait_for(pusher["pushkey"])
    wait_for_count(world, "pusher-1", "synapse_http_httppusher_http_pushes_processed_total")


def test_the_application_service_is_told(world: World) -> None:
    alice = world.user()
    text = f"for the appservice {uuid.uuid4()}"
    alice.send(alice.create_room(), text)
    path, _ = world.appservice.wait_for(text)
    assert "/transactions/" in path
    name = "synapse_event_processing_loop_count_total"
    wait_for_count(world, "appservice-1", name, name="appservice_sender")


@pytest.mark.parametrize(("unit", "position"), [("background-1", "stats"), ("user-dir-1", "user_dir")])
def test_events_are_processed_by_the_worker_for_it(world: World, unit: str, position: str) -> None:
    alice = world.user()
    alice.create_room(preset="public_chat")
    wait_for_count(world, unit, "synapse_event_processing_positions", name=position)
    assert count(world.home.metrics("main"), "synapse_event_processing_positions", name=position) == 0


def test_the_user_directory_finds_a_new_user(world: World) -> None:
    alice, bob = world.user(), world.user(name="findme")
    room = alice.create_room(preset="public_chat")
    bob.join(room)

    def found() -> bool | None:
        answer = alice.call("POST", "/_matrix/client/v3/user_directory/search", {"search_term": bob.user})
        return True if any(user["user_id"] == bob.user for user in answer["results"]) else None

    wait_for("the new user in the directory", found, 60)
    assert servlets(world.home.metrics("user-dir-1")).get("UserDirectorySearchRestServlet")


def test_every_prefix_is_served_on_the_one_port(world: World) -> None:
    client = world.home.client()
    assert "versions" in client.call("GET", "/_matrix/client/versions")
    assert "server" in client.call("GET", "/_matrix/federation/v1/version")
    assert client.call("GET", "/_matrix/key/v2/server")["server_name"] == world.home.server_name
    assert "m.homeserver" in client.call("GET", "/.well-known/matrix/client")
    assert "m.server" in client.call("GET", "/.well-known/matrix/server")
    assert client.raw("GET", "/health", None, {}) == (200, b"OK")
    for closed in ("/_synapse/replication/x/y", "/_synapse/metrics"):
        assert client.raw("GET", closed, None, {})[0] == 404
    # The remote homeserver's listener does not say `admin = true`.
    assert world.remote.client().raw("GET", "/_synapse/admin/v1/server_version", None, {})[0] == 403
