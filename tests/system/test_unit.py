"""The unit file: what systemd thinks of it, when a start is done, who may what, and how it ends."""

from __future__ import annotations

import http.client
import shutil
import uuid

from tests.support.deployment import wait_for
from tests.support.matrix import Client

from .service import UNIT, Service

# CAP_KILL, CAP_SETGID, CAP_SETUID and CAP_NET_BIND_SERVICE, by their numbers in capability.h of Linux.
OURS = 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10
VERSIONS = "/_matrix/client/versions"


def test_systemd_finds_nothing_wrong(installed: Service) -> None:
    # Mutations, each seen red: a misspelt key; an ExecStart that is not there.
    # The machine has no program that could say whether there is a manual page.
    done = installed.machine.run("systemd-analyze", "verify", "--man=no", UNIT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_the_service_may_is_little(installed: Service) -> None:
    # In tenths: 2.0 of 10.
    judged = ["systemd-analyze", "security", "--offline=yes", "--threshold=20"]
    done = installed.machine.run(*judged, f"/usr/lib/systemd/system/{UNIT}", check=False)
    assert done.returncode == 0, done.stdout


def test_a_start_is_done_when_main_is_ready_and_the_router_accepts(installed: Service) -> None:
    # Mutations, each seen red: READY=1 when the router accepts (src/run/mod.rs, `announce`); Type=simple.
    installed.systemctl("stop", UNIT)
    installed.systemctl("start", UNIT)
    # No worker has to be.
    assert not {"main", "router"} & set(installed.unready())
    assert installed.systemctl("is-active", UNIT) == "active\n"
    assert installed.state() == "active/running"
    assert "versions" in Client(installed.port).call("GET", VERSIONS)
    assert installed.notifications()[-1] == "READY=1"


def test_a_start_that_cannot_be_says_why(installed: Service) -> None:
    installed.systemctl("stop", UNIT)
    generations = installed.machine.root / "var/lib/synvisor/generations"
    aside = generations.rename(generations.with_name("aside"))
    try:
        installed.workers = "genric = 2"
        installed.write()
        installed.systemctl("start", UNIT, check=False)
        assert installed.state() == "failed/failed"
        held = installed.properties("NRestarts", "ExecMainStatus")
        assert held == {"NRestarts": "0", "ExecMainStatus": "78"}
        assert 'did you mean "generic"?' in installed.systemctl("status", "--lines=200", UNIT, check=False)
        # One that never gets there tells so while it is waited for, and then gives up.
        installed.reset()
        installed.synapse = "modules = [{ module = 'no_such_module.Class', config = {} }]"
        installed.write()
        starting = installed.machine.start("systemctl", "start", UNIT)
        wait_for(
            "it says what main lacks",
            lambda: True if "no_such_module" in installed.properties("StatusText")["StatusText"] else None,
        )
        assert starting.wait(timeout=300) == 1
        said = installed.machine.run("journalctl", "--no-pager", f"--unit={UNIT}").stdout
        assert "main does not come up" in said, said
        # It may be the machine's fault, so that it is tried again, now by itself and seldom.
        wait_for(
            "it goes on by itself",
            lambda: True if "main is failed" in installed.properties("StatusText")["StatusText"] else None,
        )
        held = installed.properties("NRestarts", "ActiveState")
        assert held == {"NRestarts": "1", "ActiveState": "activating"}
    finally:
        installed.systemctl("stop", UNIT)
        shutil.rmtree(generations, ignore_errors=True)
        aside.rename(generations)
        installed.reset()
        installed.write()


def test_who_runs_as_whom_and_may_what(service: Service) -> None:
    # Mutations, each seen red: ambient capabilities kept by children (src/sys/fork.rs); no user of its own
    # for the router (src/run/spawn.rs); mode 0755 for private directories (src/host/layout.rs).
    def of(pid: str, key: str) -> str:
        status = service.machine.run("cat", f"/proc/{pid}/status").stdout
        return next(line.partition(":")[2] for line in status.splitlines() if line.startswith(f"{key}:"))

    def uid(name: str) -> str:
        return service.machine.run("id", "-u", name).stdout.strip()

    main = service.properties("MainPID")["MainPID"]
    assert int(of(main, "CapEff"), 16) == int(of(main, "CapBnd"), 16) == OURS
    assert set(of(main, "Uid").split()) == {uid("synvisor")}
    for unit, pid in service.pids().items():
        user = uid("synvisor-router" if unit == "router" else "synvisor")
        assert set(of(str(pid), "Uid").split()) == {user}, unit
        for kind in ("CapEff", "CapPrm", "CapAmb"):
            assert int(of(str(pid), kind), 16) == 0, (unit, kind)

    def enters(directory: str) -> bool:
        router = ["runuser", "-u", "synvisor-router", "--", "ls", directory]
        return service.machine.run(*router, check=False).returncode == 0

    assert enters("/run/synvisor/client")
    assert not [closed for closed in ("/run/synvisor/private", "/var/lib/synvisor") if enters(closed)]


def test_a_stop_answers_what_was_asked_and_leaves_nothing(service: Service) -> None:
    # Mutation: KillMode=control-group, which ends PostgreSQL and Redis under Synapse: seen red.
    user = Client(service.port).register(f"user-{uuid.uuid4().hex[:8]}", "a password")
    upload = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    upload.putrequest("POST", "/_matrix/media/v3/upload")
    upload.putheader("Authorization", f"Bearer {user.token}")
    upload.putheader("Content-Length", "6")
    upload.endheaders(b"one")
    cgroup = service.properties("ControlGroup")["ControlGroup"]
    processes = service.machine.root / f"sys/fs/cgroup{cgroup}/cgroup.procs"
    assert len(processes.read_text().split()) > len(service.pids())
    stop = service.machine.start("systemctl", "stop", UNIT)
    wait_for("it stops", lambda: True if service.state() == "deactivating/stop-sigterm" else None)
    upload.send(b"two")
    assert upload.getresponse().status == 200
    upload.close()
    assert stop.wait(timeout=120) == 0, stop.communicate()
    assert service.state() == "inactive/dead"
    assert service.properties("Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}
    assert not processes.exists()
    left = service.machine.run("pgrep", "--list-full", "-u", "synvisor,synvisor-router", check=False)
    assert left.stdout == ""
    said = (service.machine.root / "var/lib/synvisor/logs/postgres.log").read_text()
    assert "received fast shutdown request" in said
    # What SIGTERM makes it say, which the supervisor never sends it.
    assert "received smart shutdown request" not in said
    assert not (service.machine.root / "run/synvisor").exists()
