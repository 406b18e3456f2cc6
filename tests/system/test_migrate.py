"""An old server that systemd starts, with a worker and a bridge behind it, gives way to the service."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import EMBEDDED
from tests.support.matrix import Client
from tests.support.old import OldServer

from .machine import suites
from .service import UNIT, Service

OLD = "/srv/old"
# As a playbook has them: main wants its workers, and whoever needs main requires it. The worker is none,
# since SQLite takes one process.
UNITS = {
    "matrix-synapse": "[Unit]\nWants=matrix-synapse-worker-0.service\n[Service]\nUser=daemon\n"
    f"WorkingDirectory={OLD}\nExecStart={{python}} -m synapse.app.homeserver -c {OLD}/homeserver.yaml\n"
    "Restart=always\nRestartSec=1\n",
    "matrix-synapse-worker-0": "[Unit]\nRequires=matrix-synapse.service\nAfter=matrix-synapse.service\n"
    '[Service]\nExecStart=/bin/sh -c "exec sleep infinity" synapse.app.generic_worker\nRestart=always\n',
    # One that does not run at the time, and would run with the next start of main.
    "matrix-synapse-worker-1": "[Unit]\nPartOf=matrix-synapse.service\n"
    '[Service]\nExecStart=/bin/sh -c "exec sleep infinity" synapse.app.generic_worker\n',
    "matrix-bridge": "[Unit]\nRequires=matrix-synapse.service\nAfter=matrix-synapse.service\n[Service]\n"
    "ExecStart=/bin/sleep infinity\nRestart=always\n",
}
MAIN, WORKER, IDLE, BRIDGE = UNITS
RUNNING = [MAIN, WORKER, BRIDGE]
ARGUMENTS = (f"--from={OLD}/homeserver.yaml", f"--old-unit={MAIN}")


class World:
    """A machine with an old server in use, and synvisor installed beside it."""

    def __init__(self, service: Service, old: OldServer) -> None:
        self.service, self.old, self.machine = service, old, service.machine
        self.secrets = {**old.secrets, "signing_key": old.key.read_text(encoding="utf-8")}

    def prepare(self) -> World:
        root = self.machine.root
        shutil.copytree(self.old.directory, root / OLD.removeprefix("/"))
        yaml = root / OLD.removeprefix("/") / "homeserver.yaml"
        settings = json.loads(yaml.read_text(encoding="utf-8"))
        yaml.write_text(json.dumps({**settings, "signing_key_path": f"{OLD}/signing.key"}), encoding="utf-8")
        self.machine.run("chown", "--recursive", "daemon:daemon", OLD)
        for name, text in UNITS.items():
            text = text.replace("{python}", f"{self.service.venv}/bin/python")
            text += "[Install]\nWantedBy=multi-user.target\n"
            (root / f"etc/systemd/system/{name}.service").write_text(text, encoding="utf-8")
        named = ""
        for name, secret in self.secrets.items():
            path = self.service.toml.with_name(name)
            path.touch(mode=0o600)
            path.write_text(secret, encoding="utf-8")
            named += f'{name}_file = "{name}"\n'
        self.service.services = f"{EMBEDDED}[secrets]\n{named}"
        self.service.write()
        self.service.systemctl("enable", "--now", *UNITS)
        self.service.systemctl("stop", IDLE)
        self.old.wait_ready()
        return self

    def migrate(self, *options: str) -> str:
        return self.machine.run("synvisor", "migrate", *ARGUMENTS, *options, seconds=300).stdout

    def active(self) -> list[str]:
        """Which of the old units run."""
        states = self.service.systemctl("is-active", *UNITS, check=False).split()
        return [name for name, state in zip(UNITS, states, strict=True) if state == "active"]

    def drop_ins(self) -> list[Path]:
        return sorted((self.machine.root / "etc/systemd/system").glob("matrix-*.service.d/synvisor.conf"))


@pytest.fixture
def world() -> Iterator[World]:
    # The oldest systemd that there is to be had.
    service = Service(suites()[0])
    with contextlib.closing(OldServer(service.port, f"localhost:{service.port}")) as old:
        try:
            yield World(service.install(), old).prepare()
        finally:
            service.close()


def test_units_give_way_stay_away_and_return(world: World) -> None:
    alice = Client(world.old.port).register("alice", "a password")
    picture = alice.upload(b"a picture")
    plan = world.migrate()
    assert (
        f"systemctl stop {MAIN}.service {IDLE}.service {WORKER}.service; with it stop {BRIDGE}.service"
        in plan
    )
    assert "Nothing was done" in plan, plan
    assert world.active() == RUNNING
    assert not world.drop_ins()

    # Mutation: what the service cannot read not looked for: seen red (there is no server then).
    refused = world.machine.run("synvisor", "migrate", *ARGUMENTS, "--go", check=False)
    assert (refused.returncode, world.active()) == (78, RUNNING), refused
    remedy = "chown synvisor /etc/synvisor/signing_key"
    assert remedy in refused.stderr, refused
    assert remedy in world.machine.run("synvisor", "doctor", check=False).stdout
    # Mutation: without the groups that the service has: seen red.
    *names, by_group = (f"/etc/synvisor/{name}" for name in world.secrets)
    world.machine.run("chown", "synvisor", *names)
    world.machine.run("usermod", "--append", "--groups=daemon", "synvisor")
    world.machine.run("chgrp", "daemon", by_group)
    world.machine.run("chmod", "640", by_group)

    said = world.migrate("--go")
    assert f"When they know where this one is: systemctl start {BRIDGE}.service" in said, said
    assert alice.download(picture) == b"a picture"
    assert world.active() == []
    # Mutation: disabled alone: seen red (the old server runs as soon as the bridge does).
    world.service.systemctl("start", BRIDGE)
    assert world.active() == [BRIDGE]
    # Mutation: only what is active looked at: seen red.
    world.service.systemctl("start", MAIN, WORKER, IDLE)
    assert world.active() == [BRIDGE]
    assert "synvisor.conf" in world.service.systemctl("status", MAIN, check=False)
    assert world.service.systemctl("is-active", UNIT) == "active\n"

    # Mutation: the old server started before the drop-ins are gone: seen red.
    world.service.systemctl("stop", BRIDGE)
    # Mutation: what does not run not disabled: seen red.
    world.service.systemctl("stop", UNIT)
    said = world.migrate("--back")
    assert "The old server serves again" in said, said
    world.old.wait_ready()
    assert world.active() == RUNNING
    assert not world.drop_ins()
    assert alice.download(picture) == b"a picture"
    assert world.service.systemctl("is-enabled", UNIT, check=False) == "disabled\n"
