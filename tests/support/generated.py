"""What `synvisor front` prints, run in the web server that it is for; ports and certificates are ours."""

from __future__ import annotations

import http.client
import re
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

from .deployment import BINARY, free_port
from .fronts import Front, program

# Every address of 127.0.0.0/8 is this machine: web servers reach the router from the first.
CLIENT = "127.0.0.77"
# Each way to be found by other servers: its flags.
FORMS = {"delegated": [], "port 8448": ["--federation-port"]}
# Where the printed files look for certificates.
CERTBOT, HAPROXY = "/etc/letsencrypt/live", "/etc/haproxy/certs"


@dataclass
class Certificates:
    """A certificate of its own for each host, in the places that the printed files name."""

    hosts: list[str]
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="svcert", dir="/tmp")))

    def __post_init__(self) -> None:
        self.directory.chmod(0o755)
        self.context = ssl.create_default_context()
        for host in self.hosts:
            live = self.directory / "live" / host
            live.mkdir(parents=True)
            certificate, key = live / "fullchain.pem", live / "privkey.pem"
            command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
            names = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
            files = ["-keyout", str(key), "-out", str(certificate)]
            subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
            both = certificate.read_text(encoding="utf-8") + key.read_text(encoding="utf-8")
            (self.directory / f"{host}.pem").write_text(both, encoding="utf-8")
            self.context.load_verify_locations(certificate)

    def close(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


# Where a port stands on which a web server listens; Caddy's stand in the heads of its sites.
LISTENS = {
    "nginx": r"(listen (?:\[::\]:)?)(\d+)\b",
    "haproxy": r"(bind (?:::)?:)(\d+)\b",
    "apache": r"(Listen |\*:)(\d+)\b",
}


def run(server: str, printed: str, certificates: Certificates) -> tuple[Front, dict[int, int]]:
    """Starts a web server with what was printed for it; where it listens, for each port that stands there."""
    ports: dict[int, int] = {}
    if server == "caddy":
        text = CADDY_SITE.sub(lambda site: caddy_site(site, ports, certificates), printed)
    else:
        text = re.sub(LISTENS[server], lambda found: f"{found[1]}{ours(int(found[2]), ports)}", printed)
    text = text.replace(CERTBOT, str(certificates.directory / "live"))
    text = text.replace(HAPROXY, str(certificates.directory))
    front = Front()
    try:
        front.start(COMMANDS[server](front.directory, text, ports), list(ports.values()))
    except BaseException:
        front.close()
        raise
    return front, ports


def ours(port: int, ports: dict[int, int]) -> int:
    if port not in ports:
        ports[port] = free_port()
    return ports[port]


CADDY_SITE = re.compile(r"^([a-z][^ ]*(?:, [^ ]+)*) \{$", re.MULTILINE)


def caddy_site(site: re.Match[str], ports: dict[int, int], certificates: Certificates) -> str:
    """The head of a site with ports of ours, and a certificate, since nobody gives one for such a name."""
    addresses = [address.partition(":") for address in site[1].split(", ")]
    heads = [f"{host}:{ours(int(port or 443), ports)}" for host, _, port in addresses]
    live = certificates.directory / "live" / addresses[0][0]
    return f"{', '.join(heads)} {{\n\ttls {live}/fullchain.pem {live}/privkey.pem"


def written(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def caddy(directory: Path, text: str, _: dict[int, int]) -> list[str]:
    options = "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n"
    file = written(directory / "Caddyfile", options + text)
    return [str(program("caddy")), "run", "--config", file, "--adapter", "caddyfile"]


def nginx(directory: Path, text: str, _: dict[int, int]) -> list[str]:
    temporary = "".join(
        f"{kind}_temp_path {directory}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    included = written(directory / "synvisor.conf", text)
    around = (
        f"daemon off;\nmaster_process off;\npid {directory}/pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}include {included};\n}}\n"
    )
    file = written(directory / "nginx.conf", around)
    return [str(program("nginx")), "-p", str(directory), "-c", file, "-e", "stderr"]


def haproxy(directory: Path, text: str, _: dict[int, int]) -> list[str]:
    return [str(program("haproxy")), "-db", "-f", written(directory / "haproxy.cfg", text)]


# What Debian's package and the `a2enmod` of the printed file load.
MODULES = ["mpm_event", "authz_core", "alias", "ssl", "proxy", "proxy_http", "headers"]


def apache(directory: Path, text: str, ports: dict[int, int]) -> list[str]:
    executable = program("apache2-bin")
    modules = executable.parents[1] / "lib/apache2/modules"
    load = "".join(f"LoadModule {name}_module {modules}/mod_{name}.so\n" for name in MODULES)
    # Debian's ports.conf.
    listen = f"Listen {ports[443]}\n" if 443 in ports else ""
    included = written(directory / "synvisor.conf", text)
    around = (
        f"{load}{listen}ServerRoot {directory}\nDefaultRuntimeDir {directory}\nPidFile {directory}/pid\n"
        f"ServerName localhost\nErrorLog /dev/stderr\nUser nobody\nGroup nogroup\nInclude {included}\n"
    )
    return [str(executable), "-DFOREGROUND", "-f", written(directory / "apache.conf", around)]


COMMANDS: dict[str, Callable[[Path, str, dict[int, int]], list[str]]] = {
    "caddy": caddy,
    "nginx": nginx,
    "haproxy": haproxy,
    "apache": apache,
}


class Fronts:
    """Every web server that can be had, with what is printed for it."""

    def __init__(self, hosts: list[str]) -> None:
        self.certificates = Certificates(hosts)
        self.fronts: list[Front] = []
        # By web server and form: where it listens for each port of the world.
        self.ports: dict[tuple[str, str], dict[int, int]] = {}

    def start(self, toml: Path, forms: list[str], servers: Iterable[str] = tuple(COMMANDS)) -> Fronts:
        for server in servers:
            for form in forms:
                command = [str(BINARY), "front", server, *FORMS[form], "--config", str(toml)]
                printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                front, self.ports[server, form] = run(server, printed, self.certificates)
                self.fronts.append(front)
        return self

    def connect(self, ports: dict[int, int], host: str, port: int = 443) -> http.client.HTTPConnection:
        """A connection to whoever says, by a certificate, that it is this host."""
        return Connection(self.certificates.context, host, ports[port])

    def ask(
        self,
        ports: dict[int, int],
        host: str,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        port: int = 443,
    ) -> tuple[int, Message, bytes]:
        connection = self.connect(ports, host, port)
        named = host if port == 443 else f"{host}:{port}"
        try:
            connection.request(method, path, body, {"Host": named, **(headers or {})})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def close(self) -> None:
        for front in self.fronts:
            front.close()
        self.certificates.close()


class Connection(http.client.HTTPConnection):
    def __init__(self, context: ssl.SSLContext, host: str, port: int) -> None:
        super().__init__("127.0.0.1", port, timeout=120, source_address=(CLIENT, 0))
        self.context, self.name = context, host

    def connect(self) -> None:
        super().connect()
        self.sock = self.context.wrap_socket(self.sock, server_hostname=self.name)
