"""Bad input: one clear message, a remedy, the right exit code, and nothing half-written."""

from __future__ import annotations

import getpass
import os
import socket
import venv as venv_module
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.services import Services
from tests.support.deployment import ORDINARY, ROOT_USER, UNPRIVILEGED, Deployment, deployed, free_port
from tests.support.toolchain import ROOT


@pytest.fixture
def fresh() -> Iterator[Deployment]:
    deployment = Deployment()
    try:
        yield deployment
    finally:
        deployment.close()


def refuse(deployment: Deployment, code: int, *words: str) -> str:
    """`supervise` ends at once with this code and says these words; nothing is written."""
    done = deployment.cli("supervise", timeout=60)
    assert done.returncode == code, done
    for word in words:
        assert word in done.stderr, done.stderr
    assert not deployment.state.exists()
    assert not deployment.run.exists()
    return done.stderr


def problems(stderr: str) -> int:
    return stderr.count(": error: ")


def test_empty_file(fresh: Deployment) -> None:
    fresh.toml.write_text("")
    assert problems(refuse(fresh, 78, "the file is empty", 'server_name = "example.com"')) == 1


def test_no_file(fresh: Deployment) -> None:
    fresh.toml.unlink()
    refuse(fresh, 78, str(fresh.toml), "--config FILE")


def test_the_file_as_it_is_shipped_lacks_a_name(fresh: Deployment) -> None:
    fresh.toml.write_text((ROOT / "config/synvisor.toml").read_text(encoding="utf-8"), encoding="utf-8")
    done = fresh.cli("check")
    assert done.returncode == 0, done
    assert "no mistakes found, 4 processes" in done.stdout, done
    assert "synvisor init asks for yours" in done.stdout, done


def test_wrong_type(fresh: Deployment) -> None:
    fresh.workers = 'generic = "two"'
    fresh.write()
    stderr = refuse(fresh, 78, f"{fresh.toml}:4:11: error: generic must be a whole number", "^^^^^")
    assert problems(stderr) == 1


def test_unknown_key(fresh: Deployment) -> None:
    fresh.workers = "genric = 4"
    fresh.write()
    assert problems(refuse(fresh, 78, "unknown key genric in [workers]", 'did you mean "generic"?')) == 1


def test_missing_secret_file(fresh: Deployment) -> None:
    fresh.services = '[database]\npassword_file = "/nowhere/password"\n'
    fresh.write()
    assert problems(refuse(fresh, 78, "/nowhere/password", "No such file", "0600")) == 1


@pytest.mark.skipif(not ROOT_USER, reason="only root may change users, so nobody else is asked to")
def test_a_secret_that_others_may_read(fresh: Deployment) -> None:
    # Mutation: the mode not looked at (src/host/secrets.rs): seen red.
    secret = fresh.directory / "secret"
    secret.write_text("hunter2hunter2")
    secret.chmod(0o644)
    fresh.extra = f'[secrets]\nform_secret_file = "{secret}"\n'
    fresh.write()
    assert problems(refuse(fresh, 78, f"{secret} is a secret", "mode 0644", f"chmod 600 {secret}")) == 1
    # What only this machine lacks is no mistake of the file.
    assert fresh.cli("check").returncode == 0


def test_a_signing_key_that_must_not_be_made(fresh: Deployment) -> None:
    # Mutation: the key made all the same (src/host/secrets.rs, `complete`): seen red.
    fresh.extra = "[secrets]\nsigning_key_required = true\n"
    fresh.write()
    stderr = refuse(fresh, 78, f"{fresh.state}/secrets/signing.key", "put the homeserver's signing key there")
    assert problems(stderr) == 1
    done = fresh.cli("check")
    assert done.returncode == 0
    assert "warning: cannot read" in done.stderr


def test_a_credential_outside_of_the_service(fresh: Deployment) -> None:
    fresh.services = '[database]\npassword_file = "$CREDENTIALS_DIRECTORY/db"\n'
    fresh.write()
    refuse(fresh, 78, "credential db", "LoadCredential=db:/etc/synvisor/db")


def test_a_user_that_does_not_exist(fresh: Deployment) -> None:
    fresh.user = "no-such-user"
    fresh.write()
    refuse(fresh, 78, "no-such-user", "useradd")


def test_second_daemon_on_the_same_state_directory() -> None:
    with deployed() as first:
        second = first.cli("supervise", timeout=60)
        assert second.returncode == 75, second
        assert f"pid {first.process.pid if first.process else '?'}" in second.stderr
        assert str(first.state) in second.stderr
        assert first.status(), "the first one must not notice"


def test_taken_port(fresh: Deployment) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", fresh.port))
        taken.listen()
        refuse(fresh, 1, f"127.0.0.1:{fresh.port}", "taken by another program", "[[listen]]")


def test_unreachable_database(fresh: Deployment) -> None:
    port = free_port()
    fresh.services = f'[database]\nhost = "127.0.0.1"\nport = {port}\n'
    fresh.extra = 'dependency_timeout = "2s"'
    fresh.write()
    done = fresh.cli("supervise", timeout=60)
    assert done.returncode == 1, done
    assert f"PostgreSQL at 127.0.0.1:{port} cannot be reached" in done.stderr
    assert "[database]" in done.stderr
    # Nothing but what every start writes: secrets and rendered files, whole and private.
    assert sorted(path.name for path in (fresh.state / "config").iterdir()) == ["main.log.yaml", "main.yaml"]


def test_a_main_that_never_comes_up(fresh: Deployment) -> None:
    # Mutation: what `give_up_start` (src/run/reload.rs) does of a unit that failed left out: seen red (it
    # never ends).
    fresh.synapse = 'modules = [{ module = "no_such_module.Class", config = {} }]'
    fresh.write()
    done = fresh.cli("supervise", timeout=300)
    assert done.returncode == 1, done
    assert "main does not come up" in done.stderr
    assert "No module named 'no_such_module'" in done.stderr
    assert str(fresh.state / "logs" / "main.log") in done.stderr


def test_a_database_that_goes_by_the_system_user(fresh: Deployment) -> None:
    # Mutations, each seen red: the supervisor's own user taken for Synapse's (root is refused, and nothing
    # starts); every refusal taken for one of us alone.
    services = Services(fresh.venv)
    try:
        services.admit_by("peer")
        fresh.services = services.toml().replace("[redis]", 'user = "synapse"\n[redis]')
        fresh.extra = 'dependency_timeout = "2s"'
        fresh.run_as = ORDINARY
        if ORDINARY:
            os.chown(fresh.directory, *ORDINARY)
        fresh.write()
        done = fresh.cli("supervise", timeout=60)
        assert done.returncode == 1, done
        name = UNPRIVILEGED if ROOT_USER else getpass.getuser()
        assert 'Peer authentication failed for user "synapse"' in done.stderr
        assert f'user = "{name}"' in done.stderr
        assert f"createuser {name}" in done.stderr
        if ROOT_USER:
            # Root is not whom Synapse comes as; nobody may come as synapse here.
            services.admit_by("peer map=synapse", f"synapse {UNPRIVILEGED} synapse")
            fresh.run_as = None
            fresh.start().wait_ready()
    finally:
        fresh.close()
        services.close()


def test_virtualenv_without_synapse(fresh: Deployment) -> None:
    empty = fresh.directory / "empty-venv"
    venv_module.create(empty, with_pip=False, symlinks=True)
    python = empty / "bin" / "python"
    python.unlink()
    python.symlink_to((fresh.venv / "bin" / "python").resolve())
    fresh.venv = empty
    fresh.write()
    refuse(fresh, 78, f"there is no Synapse in {empty}", "pip install", "matrix-synapse")


def test_no_virtualenv(fresh: Deployment) -> None:
    fresh.venv = Path("/nowhere/venv")
    fresh.write()
    refuse(fresh, 78, "there is no virtualenv at /nowhere/venv", "python3 -m venv")


def test_python_too_old(fresh: Deployment) -> None:
    old = fresh.directory / "old-venv"
    (old / "bin").mkdir(parents=True)
    real = (fresh.venv / "bin" / "python").resolve()
    python = old / "bin" / "python"
    # An interpreter that says of itself that it is 3.9.
    patch = "import sys; sys.version_info = (3, 9, 2, 'final', 0); exec(sys.argv[1])"
    python.write_text(f'#!/bin/sh\nexec {real} -I -c "{patch}" "$3"\n')
    python.chmod(0o755)
    fresh.venv = old
    fresh.write()
    refuse(fresh, 78, "Python 3.9.2", "too old", "3.10")


def test_a_daemon_that_does_not_run(fresh: Deployment) -> None:
    for verb in (["status"], ["reload"], ["restart", "main"], ["logs", "main"]):
        done = fresh.cli(*verb)
        assert done.returncode == 69, done
        assert "not running" in done.stderr
        assert "systemctl start synvisor" in done.stderr


def test_check_reports_everything_at_once(fresh: Deployment) -> None:
    fresh.toml.write_text(
        'server_name = "HTTPS://x"\n[workers]\ntyping = 2\ngenric = 1\n[synapse]\nredis = {}\n'
    )
    done = fresh.cli("check")
    assert done.returncode == 78
    assert problems(done.stderr) == 4, done.stderr
