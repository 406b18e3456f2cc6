"""What the router could do if it were taken over: as its user, everything that is not its own is tried."""

from __future__ import annotations

import json

from .service import Service

# Prints which of its attempts succeed; each goes as far as it would have to for being of use.
ATTEMPTS = """
import ctypes, json, os, signal, socket, sys

def connect(path):
    kind = socket.SOCK_SEQPACKET if "forkserver" in path else socket.SOCK_STREAM
    socket.socket(socket.AF_UNIX, kind).connect(path)

def send(path):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", path)

def read(path):
    open(path, "rb").read(1)

def trace(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, int(pid), None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(int(pid), 0x40000000)
    libc.ptrace(17, int(pid), None, None)

done = {}
for what, argument in json.loads(sys.argv[1]):
    try:
        globals()[what](argument)
        done[f"{what} {argument}"] = "done"
    except OSError as error:
        done[f"{what} {argument}"] = os.strerror(error.errno)
print(json.dumps(done))
"""


def attempts(service: Service, user: str, tried: list[tuple[str, str]]) -> dict[str, str]:
    command = [
        "runuser",
        "-u",
        user,
        "--",
        str(service.venv / "bin/python3"),
        "-c",
        ATTEMPTS,
    ]
    result: dict[str, str] = json.loads(service.machine.run(*command, json.dumps(tried)).stdout)
    return result


def test_the_router_reaches_nothing_but_requests(service: Service) -> None:
    state, run = "/var/lib/synvisor", "/run/synvisor"
    find = ["find", f"{state}/secrets", f"{state}/config", "-type", "f"]
    files = service.machine.run(*find).stdout.split()
    assert any(path.endswith("signing.key") for path in files), files
    private = service.machine.run("find", f"{run}/private", "-type", "s").stdout.split()
    assert f"{run}/private/generic-1.sock" in private, private
    tried = [("read", path) for path in [*files, "/etc/synvisor/synvisor.toml"]]
    tried += [("connect", path) for path in [*private, f"{run}/control.sock", f"{run}/forkserver.sock"]]
    tried += [("connect", f"{run}/postgres/.s.PGSQL.5432"), ("connect", f"{run}/redis/redis.sock")]
    tried += [("send", f"{run}/notify.sock")]
    as_synapse = attempts(service, "synvisor", tried)
    assert set(as_synapse.values()) == {"done"}, as_synapse
    as_router = attempts(service, "synvisor-router", tried)
    assert set(as_router.values()) == {"Permission denied"}, as_router

    pids = service.pids()
    traced = [("trace", str(pids[unit])) for unit in ("main", "generic-1")]
    assert set(attempts(service, "root", traced).values()) == {"done"}
    refused = attempts(service, "synvisor-router", traced)
    assert set(refused.values()) == {"Operation not permitted"}, refused
    assert service.pids() == pids
    # What it needs it has.
    client = [("connect", f"{run}/client/{unit}.sock") for unit in ("main", "generic-1")]
    assert set(attempts(service, "synvisor-router", client).values()) == {"done"}
