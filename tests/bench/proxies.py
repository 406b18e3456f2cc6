"""synvisor's router, nginx, HAProxy and Caddy before the same sockets, each with a port, and one for TLS.

All of them log no request, keep connections to the processes, and keep what belongs to a user together.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import socket
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path

from tests.support.deployment import BINARY, free_port
from tests.support.fronts import Front, program

from .homeserver import MAIN, Location, groups, locations, topology, units

# What a client calls the homeserver.
HOST = "matrix.example.com"
# Longer than any measurement, in seconds.
LONG = 3600


class Proxy(ABC):
    """One that is measured: `start` has it serve, `pid` is the root of its processes."""

    name: str
    pid: int
    port: int
    # None where it cannot speak TLS.
    tls_port: int | None

    def __init__(self, sockets: Path, live: Path) -> None:
        """`sockets` has those of the units, `live` a certificate as certbot leaves it."""
        self.sockets, self.live = sockets, live

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


class Synvisor(Proxy):
    name = "synvisor"
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Does what the supervisor does for its router; see src/wire.rs."""
        control, lock = self.sockets / "router", self.sockets / "lock"
        control.unlink(missing_ok=True)
        plain, secure = (socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(2))
        self.port, self.tls_port = plain.getsockname()[1], secure.getsockname()[1]
        with socket.socket(socket.AF_UNIX) as listener, lock.open("w") as held:
            listener.bind(str(control))
            listener.listen()
            command = [
                BINARY,
                "router",
                "--supervisor-uid",
                os.getuid(),
                "--drain-timeout-ms",
                0,
                "--incarnation",
                1,
            ]
            self.process = start_with([str(word) for word in command], [listener.fileno(), held.fileno()])
        self.pid = self.process.pid
        table = {
            "type": "table",
            "topology": topology(self.sockets),
            "listeners": [
                {
                    "address": f"127.0.0.1:{port}",
                    "admin": False,
                    "metrics": True,
                    "tls": tls,
                    "certificates": int(tls),
                }
                for port, tls in ((self.port, False), (self.tls_port, True))
            ],
            # As by default.
            "trusted_proxies": ["127.0.0.0/8", "::1/128"],
            "largest_upload": 100 << 20,
            "access_log": "off",
        }
        self.supervisor = socket.socket(socket.AF_UNIX)
        self.supervisor.connect(str(control))
        # Each line that descriptors belong to begins with them.
        with os.fdopen(os.memfd_create("certificate"), "wb") as certificate:
            for name in ("fullchain.pem", "privkey.pem"):
                certificate.write((self.live / name).read_bytes())
            certificate.flush()
            socket.send_fds(self.supervisor, [b"{"], [one.fileno() for one in (plain, secure, certificate)])
        self.supervisor.sendall(json.dumps(table)[1:].encode() + b"\n")
        for one in (plain, secure):
            one.close()
        with self.supervisor.makefile("rb") as stream:
            accepting = json.loads(stream.readline())
        assert accepting["type"] == "accepting", accepting
        for unit in units():
            up = {"type": "up", "unit": unit, "incarnation": 1}
            self.supervisor.sendall(json.dumps(up).encode() + b"\n")

    def close(self) -> None:
        if self.process is not None:
            self.supervisor.close()
            self.process.terminate()
            self.process.wait(timeout=30)
            self.process = None


def start_with(command: list[str], descriptors: list[int]) -> subprocess.Popen[bytes]:
    """A process that has these as 3 and the numbers after it."""
    above = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 64) for number in descriptors]

    def place() -> None:
        for number, descriptor in enumerate(above, 3):
            os.dup2(descriptor, number)

    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False, preexec_fn=place)
    finally:
        for descriptor in above:
            os.close(descriptor)


class Other(Proxy):
    """A web server of Debian with a configuration of its own."""

    front: Front | None = None
    tls_port: int

    def start(self) -> None:
        self.port, self.tls_port = free_port(), free_port()
        self.front = Front()
        self.front.start(self.command(self.front.directory), [self.port, self.tls_port])
        assert self.front.process is not None
        self.pid = self.front.process.pid

    @abstractmethod
    def command(self, directory: Path) -> list[str]: ...

    def socket(self, unit: str) -> str:
        return str(self.sockets / f"{unit}.sock")

    def close(self) -> None:
        if self.front is not None:
            self.front.close()
            self.front = None


def quoted(pattern: str) -> str:
    assert not set(pattern) & set("'\"` \t"), f"{pattern} needs other quotes"
    return f"'{pattern}'"


class Nginx(Other):
    """As it comes: an answer that fits into its buffers goes out at once."""

    name = "nginx"
    extra = ""

    def command(self, directory: Path) -> list[str]:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        temporary = "".join(
            f"{kind}_temp_path {directory}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        upstreams = "".join(
            f"upstream {name} {{ {'hash $http_authorization consistent; ' if len(members) > 1 else ''}"
            f"{''.join(f'server unix:{self.socket(unit)}; ' for unit in members)}"
            f"keepalive 128; keepalive_requests 1000000000; }}\n"
            for name, members in groups().items()
        )
        live = self.live
        file = directory / "nginx.conf"
        file.write_text(
            f"daemon off;\nuser root;\nworker_processes 1;\npid {directory}/pid;\nerror_log stderr;\n"
            f"pcre_jit on;\nworker_rlimit_nofile {most};\nevents {{ worker_connections {most}; }}\n"
            f"http {{\naccess_log off;\n{temporary}{upstreams}server {{\n"
            f"listen 127.0.0.1:{self.port} backlog=1024;\n"
            f"listen 127.0.0.1:{self.tls_port} ssl backlog=1024;\n"
            f"ssl_certificate {live}/fullchain.pem;\nssl_certificate_key {live}/privkey.pem;\n"
            "ssl_protocols TLSv1.2 TLSv1.3;\nkeepalive_requests 1000000000;\ntcp_nodelay on;\n"
            f"client_max_body_size 0;\n{self.extra}"
            'proxy_http_version 1.1;\nproxy_set_header Connection "";\nproxy_set_header Host $host;\n'
            "proxy_set_header X-Forwarded-For $remote_addr;\nproxy_set_header X-Forwarded-Proto $scheme;\n"
            f"proxy_read_timeout {LONG}s;\n{''.join(map(self.location, locations()))}"
            f"location / {{ proxy_pass http://{MAIN}; }}\n}}\n}}\n",
            encoding="utf-8",
        )
        return [str(program("nginx")), "-p", str(directory), "-c", str(file), "-e", "stderr"]

    @staticmethod
    def location(location: Location) -> str:
        others = "".join(
            f"if ($request_method ~ '^({'|'.join(methods)})$') {{ proxy_pass http://{group}; }} "
            for group, methods in location.others.items()
        )
        return f"location ~ {quoted(location.pattern)} {{ {others}proxy_pass http://{location.group}; }}\n"


class StreamingNginx(Nginx):
    """For bodies: to collect them, in files where they are large, would cost it more."""

    # By default it would go on in portions of 4 KiB.
    extra = (
        "proxy_buffering off;\nproxy_request_buffering off;\nproxy_buffer_size 64k;\n"
        "proxy_buffers 8 64k;\nproxy_busy_buffers_size 128k;\nclient_body_buffer_size 64k;\n"
    )


class HAProxy(Other):
    name = "haproxy"
    extra = ""
    defaults = ""

    def command(self, directory: Path) -> list[str]:
        most = (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 200) // 2
        known, pem = locations(), directory / "site.pem"
        pem.write_text(
            "".join((self.live / f).read_text("utf-8") for f in ("fullchain.pem", "privkey.pem")), "utf-8"
        )
        paths, file = directory / "paths.map", directory / "haproxy.cfg"
        paths.write_text("".join(f"{one.pattern} {one.group}\n" for one in known), "utf-8")
        others = "".join(
            f"  http-request set-var(txn.group) str({group}) if {{ method {' '.join(methods)} }} "
            f"{{ path_reg {quoted(one.pattern)} }}\n"
            for one in known
            for group, methods in one.others.items()
        )
        backends = "".join(
            f"backend {name}\n"
            + ("  balance hdr(Authorization)\n  hash-type consistent\n" if len(members) > 1 else "")
            + "".join(f"  server {unit} unix@{self.socket(unit)}\n" for unit in members)
            for name, members in groups().items()
        )
        file.write_text(
            f"global\n  nbthread 1\n  maxconn {most}\n{self.extra}"
            "  ssl-default-bind-options ssl-min-ver TLSv1.2\n"
            f"defaults\n  mode http\n  http-reuse always\n  timeout connect 5s\n  timeout client {LONG}s\n"
            f"  timeout server {LONG}s\n  option forwardfor\n{self.defaults}"
            f"frontend all\n  bind 127.0.0.1:{self.port} backlog 1024\n"
            f"  bind 127.0.0.1:{self.tls_port} ssl crt {pem} backlog 1024\n"
            f"  http-request set-var(txn.group) path,map_reg({paths},{MAIN})\n{others}"
            f"  use_backend %[var(txn.group)]\n{backends}",
            encoding="utf-8",
        )
        return [str(program("haproxy")), "-db", "-f", str(file)]


class HAProxyTuned(HAProxy):
    """For large bodies."""

    name = "haproxy-tuned"
    # By default as many pipes as a quarter of its connections, for which there are no descriptors.
    extra = "  tune.bufsize 65536\n  maxpipes 64\n"
    defaults = "  option splice-auto\n"


class Caddy(Other):
    name = "caddy"

    def command(self, directory: Path) -> list[str]:
        upstreams = "".join(
            f"({name}) {{\n\treverse_proxy {' '.join(f'unix/{self.socket(unit)}' for unit in members)} {{\n"
            + ("\t\tlb_policy header Authorization\n" if len(members) > 1 else "")
            + "\t\ttransport http {\n\t\t\tkeepalive_idle_conns_per_host 128\n\t\t}\n\t}\n}\n"
            for name, members in groups().items()
        )
        # One expression for those that stand together: Caddy tries one matcher after the other.
        matchers: list[tuple[str, list[str], list[str]]] = []
        for one in locations():
            for group, methods in one.others.items():
                matchers.append((group, methods, [one.pattern]))
            if matchers and matchers[-1][0] == one.group and not matchers[-1][1]:
                matchers[-1][2].append(one.pattern)
            else:
                matchers.append((one.group, [], [one.pattern]))
        handles = "".join(
            f"\t@m{at} {{\n"
            + (f"\t\tmethod {' '.join(methods)}\n" if methods else "")
            + f"\t\tpath_regexp `{'|'.join(patterns)}`\n\t}}\n\thandle @m{at} {{\n\t\timport {group}\n\t}}\n"
            for at, (group, methods, patterns) in enumerate(matchers)
        )
        rest = f"\thandle {{\n\t\timport {MAIN}\n\t}}\n"
        file = directory / "Caddyfile"
        file.write_text(
            "{\n\tadmin off\n\tauto_https off\n\tskip_install_trust\n\tgrace_period 1s\n}\n"
            f"{upstreams}(site) {{\n{handles}{rest}}}\n"
            f"http://:{self.port} {{\n\tbind 127.0.0.1\n\timport site\n}}\n"
            f"https://:{self.tls_port} {{\n\tbind 127.0.0.1\n"
            f"\ttls {self.live}/fullchain.pem {self.live}/privkey.pem\n"
            "\timport site\n}\n",
            encoding="utf-8",
        )
        return [str(program("caddy")), "run", "--config", str(file), "--adapter", "caddyfile"]
