"""A backup comes back where the service, which is not root's, can go on with what root has restored."""

from __future__ import annotations

import uuid

from tests.support.matrix import Client

from .service import UNIT, Service


def test_the_service_goes_on_with_what_was_restored(service: Service) -> None:
    # Mutation: root makes every directory (src/cli/restore.rs): seen red (the service does not start).
    alice = Client(service.port).register(f"user-{uuid.uuid4().hex[:8]}", "a password")
    picture = alice.upload(b"a picture")
    backup = f"/var/backups/synvisor/{uuid.uuid4().hex}"
    service.machine.run("synvisor", "backup", backup, "--media")
    service.systemctl("stop", UNIT)
    service.machine.run("rm", "--recursive", "/var/lib/synvisor")
    service.machine.run("synvisor", "restore", backup)
    service.systemctl("start", UNIT)
    service.wait_ready()
    assert alice.download(picture) == b"a picture"
