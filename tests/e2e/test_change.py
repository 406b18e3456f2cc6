"""Changes that cannot be made: what was there before goes on, and nothing is lost."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import LIVELY, Deployment, deployed, over_unix_socket, wait_for
from tests.support.endpoints import appservice_registration
from tests.support.toolchain import ROOT
from tests.support.traffic import UNLIMITED, Traffic

pytestmark = pytest.mark.timeout(1800)

# A module of Synapse's that does in one process what a test wants.
MODULE = """
import os, time

class Moody:
    def __init__(self, config, api):
        if api.worker_name != config["unit"]:
            return
        if config["mood"] == "breaks":
            raise RuntimeError("this process is not in the mood")
        while not os.path.exists(config["mood"]):
            time.sleep(0.05)

    @staticmethod
    def parse_config(config):
        return config
"""
COUNTS = "generic = 3\ntyping = 1"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(COUNTS, synapse=UNLIMITED + LIVELY)
    modules = deployment.directory / "modules"
    modules.mkdir()
    (modules / "moody.py").write_text(MODULE)
    deployment.extra = f'[units.all.environment]\nPYTHONPATH = "{modules}"'
    deployment.write()
    try:
        yield deployment.start().wait_ready()
    finally:
        deployment.close()


def moody(home: Deployment, unit: str, mood: str) -> None:
    """A TOML that Synapse's parser likes and one process does not."""
    config = f'modules = [{{ module = "moody.Moody", config = {{ unit = "{unit}", mood = "{mood}" }} }}]\n'
    home.synapse = config + UNLIMITED + LIVELY
    home.write()


def generations(home: Deployment) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(home.cli("generations", "--json").stdout)
    return listed


def files(home: Deployment) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (home.state / "config").iterdir()}


def notes(home: Deployment) -> str:
    status = home.status()
    assert status
    return "\n".join(status["notes"])


def test_what_does_not_get_ready_is_undone(home: Deployment) -> None:
    # Mutations, each seen red: no way back; the way back for everybody; the result not noted.
    before, held = home.pids(), files(home)
    with Traffic(home.port) as traffic:
        traffic.breathe()
        moody(home, "generic-2", "breaks")
        done = home.cli("reload", timeout=300)
        traffic.breathe()
        report = traffic.stop()
    assert done.returncode == 1, done
    for word in ("generation 2 was rolled back", "generic-2 did not start", "not in the mood", "runs again"):
        assert word in done.stderr, done.stderr
    home.wait_ready()
    after = home.pids()
    # One after the other, main first: the third was not in the mood, and who comes after it never noticed.
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"main", "generic-1", "generic-2"}
    assert files(home) == held
    first, second = generations(home)
    assert (first["result"], second["result"]) == ("applied", "rolled_back")
    assert "not in the mood" in second["why"]
    assert "modules" in second["changes"][0]
    assert "rolled back" in home.cli("generations").stdout
    assert "generation 2" in notes(home)
    assert report["failed"] == 0, json.dumps(report, indent=1)
    assert not report["lost"], json.dumps(report, indent=1)
    # Started anew it does not try once more what did not work, and says so.
    home.stop()
    home.start().wait_ready()
    assert "generation 2, which was rolled back" in notes(home)
    assert files(home) == held
    # Mended, it is as ever.
    home.synapse = UNLIMITED + LIVELY
    home.write()
    assert home.cli("reload").returncode == 0
    assert "rolled back" not in notes(home)


def test_what_the_old_synapse_could_not_read_any_more_is_not_undone(home: Deployment) -> None:
    # What `upgrade --anyway` says when there is no way back. Mutation: a way back all the same: seen red.
    before = home.pids()
    moody(home, "generic-2", "breaks")
    wish = {"migration": "one_way"}
    status, answer = over_unix_socket(home.run / "control.sock", "POST", "/v1/reload", wish)
    assert status != 200
    assert b"not in force as a whole" in answer, answer
    assert home.unit("main")["state"] == "ready"
    assert home.pids()["main"] != before["main"]
    assert generations(home)[-1]["result"] == "failed"
    assert any(b"moody" in text for path, text in files(home).items() if path.stem == "main")
    home.synapse = UNLIMITED + LIVELY
    home.write()
    assert home.cli("reload", timeout=300).returncode == 0
    home.wait_ready()


def test_one_change_at_a_time(home: Deployment) -> None:
    # Mutations, each seen red: the second reload let in; the plan of a half-made change given.
    go = home.directory / "go"
    moody(home, "generic-1", str(go))
    answers = []
    thread = threading.Thread(target=lambda: answers.append(home.cli("reload", timeout=300)))
    thread.start()
    try:
        wait_for(
            "generic-1 starting", lambda: True if home.unit("generic-1")["state"] == "starting" else None
        )
        for verb in (["reload"], ["rollback"], ["plan"]):
            done = home.cli(*verb)
            assert done.returncode == 75, done
            assert "reload by" in done.stderr
            assert "is under way: step 2 of" in done.stderr
        assert "is under way" in notes(home)
    finally:
        go.touch()
        thread.join()
    (answer,) = answers
    assert answer.returncode == 0, answer
    assert "is under way" not in notes(home)


def test_back_and_forth(home: Deployment) -> None:
    # Mutations, each seen red: the generation that is left not marked; the number ignored.
    pids = home.pids()
    home.workers = "generic = 4\ntyping = 1"
    home.write()
    assert home.cli("reload").returncode == 0
    assert set(home.pids()) - set(pids) == {"generic-4"}
    done = home.cli("rollback")
    assert done.returncode == 0, done
    assert "generation 3: stopped generic-4" in done.stdout
    wait_for("generic-4 gone", lambda: True if home.pids() == pids else None)
    assert [one["result"] for one in generations(home)] == ["applied", "rolled_back", "applied"]
    assert "rollback by" in generations(home)[2]["who"]
    # The file is the administrator's: it is not touched, and does not come back by itself.
    assert "generic = 4" in home.toml.read_text()
    assert "generation 2" in notes(home)
    home.stop()
    home.start().wait_ready()
    assert set(home.pids()) == set(pids)
    # Until somebody asks for it.
    assert home.cli("rollback", "2").returncode == 0
    assert "generic-4" in home.pids()
    done = home.cli("rollback", "77")
    assert done.returncode == 1
    assert "there is no generation 77" in done.stderr


def test_a_start_with_mistakes_runs_what_worked(home: Deployment) -> None:
    # Mutation: the last good generation not looked for: seen red.
    held, text = files(home), home.toml.read_text()
    home.stop()
    home.toml.write_text(text.replace("generic =", "genric ="))
    home.start().wait_ready()
    assert files(home) == held
    assert "has mistakes, and generation 1" in notes(home)
    assert 'did you mean "generic"?' in home.output.read_text()
    assert home.cli("reload").returncode == 78
    assert "has mistakes, and generation 1" in notes(home)
    home.toml.write_text(text)
    assert home.cli("reload").returncode == 0
    assert "mistakes" not in notes(home)


def test_a_start_that_does_not_come_up_goes_back(home: Deployment) -> None:
    held, text = files(home), home.toml.read_text()
    home.stop()
    # What only Synapse's own parser finds, and nobody has asked it.
    home.toml.write_text(text.replace("[synapse]", "[synapse]\noidc_providers = [{ idp_id = 'x' }]", 1))
    home.start().wait_ready()
    assert files(home) == held
    assert [one["result"] for one in generations(home)] == ["applied", "rolled_back", "applied"]
    assert "generation 2, which was rolled back (start, since main did not come up" in notes(home)
    home.stop()
    other = text.replace(f'server_name = "{home.server_name}"', 'server_name = "another.example"', 1)
    home.toml.write_text(other)
    home.start().wait_ready()
    assert files(home) == held
    assert f"this homeserver is {home.server_name}" in notes(home)
    home.toml.write_text(text)
    assert home.cli("reload").returncode == 0
    assert "homeserver is" not in notes(home)


def test_who_was_stopped_stays_so(home: Deployment) -> None:
    assert home.cli("stop", "generic-2").returncode == 0
    home.synapse = f"turn_allow_guests = false\n{UNLIMITED}{LIVELY}"
    home.write()
    done = home.cli("reload")
    assert done.returncode == 0, done
    assert "still stopped, as ordered: generic-2" in done.stdout
    assert home.unit("generic-2")["state"] == "down"
    assert home.unit("generic-2")["reason"] == "stopped by order"
    assert "ready, but for what was stopped" in home.cli("status").stdout
    assert home.cli("start", "generic-2").returncode == 0


def test_a_file_that_goes_bad_is_found_before_anything_is_touched(home: Deployment) -> None:
    bridge, secret = home.directory / "bridge.yaml", home.directory / "secret"
    appservice_registration("http://127.0.0.1:9", bridge)
    home.synapse = f'app_service_config_files = ["{bridge}"]\n{UNLIMITED}{LIVELY}'
    home.write()
    assert home.cli("reload").returncode == 0
    before, good = home.pids(), bridge.read_text()
    bridge.write_text("id: [")
    done = home.cli("reload")
    assert done.returncode == 78, done
    assert "app_service_config_files" in done.stderr
    bridge.write_text(good)
    secret.write_text("hunter2-hunter2")
    secret.chmod(0o600)
    for value in ('"hunter2-hunter2"', f'{{ secret_file = "{secret}" }}'):
        home.synapse = f"oidc_providers = [{{ idp_id = 'x', client_secret = {value} }}]\n{UNLIMITED}{LIVELY}"
        home.write()
        done = home.cli("reload")
        assert done.returncode == 78, done
        assert "client_secret" in done.stderr
        assert "hunter2" not in done.stderr + home.output.read_text()
    assert home.pids() == before
    assert not list((home.state / "check").iterdir())


REFUSED = {
    "oidc_providers = [{ idp_id = 'x' }]": "not valid under any of the given schemas",
    "modules = [{ module = 'no_such_module.Class', config = {} }]": "no_such_module",
    "caches = { per_cache_factors = 3 }": "caches",
    "retention = { default_policy = { min_lifetime = '2d', max_lifetime = '1d' }, enabled = true }": "max_",
    "media_storage_providers = [{ module = 'file_system', store_local = true }]": "config",
    "url_preview_enabled = true": ":1: error: Synapse refuses this",
    "auto_join_rooms = ['not an alias']": "auto_join_rooms",
    "thumbnail_sizes = [{ width = 3 }]": "thumbnail_sizes",
    "app_service_config_files = ['/nowhere/bridge.yaml']": "bridge.yaml",
    "room_list_publication_rules = [{ action = 'perhaps' }]": "allow",
    "user_types = { default_user_type = 'x' }": "user type",
    "max_upload_size = 'many'": "many",
    "jwt_config = { enabled = true, algorithm = 'HS256' }": "'secret'",
}


def test_nothing_bad_gets_in() -> None:
    # Mutations, each seen red: files written before Synapse has read them; a verdict not looked at.
    with deployed(COUNTS, synapse=LIVELY) as home:
        before, held = home.pids(), files(home)
        connection = http.client.HTTPConnection("127.0.0.1", home.port, timeout=60)

        def asks() -> int:
            connection.request("GET", "/_matrix/client/versions")
            response = connection.getresponse()
            response.read()
            return response.status

        assert asks() == 200
        socket = connection.sock
        good = home.toml.read_text()
        broken = sorted((ROOT / "tests" / "config" / "bad").glob("*.toml"))
        refused = 0
        for path in broken:
            home.toml.write_bytes(path.read_bytes())
            checked = home.cli("check")
            if checked.returncode != 78:
                continue
            refused += 1
            status, body = over_unix_socket(home.run / "control.sock", "POST", "/v1/reload")
            answer = json.loads(body)
            assert (status, answer["ok"], answer["obstacle"]) == (409, False, "config"), (path, answer)
            # The same as `check` says, but for what only the daemon can know.
            assert answer["message"].startswith(checked.stderr.rstrip("\n").split("\n\n")[0]), path
            assert answer["message"].endswith("nothing was changed"), path
        assert refused >= 60
        assert len(REFUSED) >= 12
        for settings, word in REFUSED.items():
            home.synapse = f"{settings}\n{LIVELY}"
            home.write()
            assert home.cli("check").returncode == 0, settings
            done = home.cli("reload")
            assert done.returncode == 78, (settings, done)
            assert "Synapse refuses this" in done.stderr, settings
            assert word in done.stderr, (settings, done.stderr)
            assert "nothing was changed" in done.stderr, settings
        home.toml.write_text(good)
        assert home.pids() == before
        assert files(home) == held
        assert [one["number"] for one in generations(home)] == [1]
        # Nobody has closed it meanwhile, or there would be another.
        assert asks() == 200
        assert connection.sock is socket
        connection.close()
        assert home.cli("plan").stdout == "no change\n"
