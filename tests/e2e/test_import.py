"""What `import` writes and what it refuses; and a homeserver that comes up from a playbook's variables."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import BINARY, ORDINARY, ROOT_USER, Deployment
from tests.support.generated import Fronts

CASES = Path(__file__).resolve().parent.parent / "import" / "cases"
# Of the blog.
NAME, PUBLIC = "example.com", "matrix.example.com"
KEY = "ed25519 a_test H7g1x3mSSlyFPgRlzOrQfsDQcpTBUmoWFMEyKEJcoB4\n"


def run(*arguments: str | Path, ordinary: bool = False) -> subprocess.CompletedProcess[str]:
    prefix = []
    if ordinary and ORDINARY:
        uid, gid = ORDINARY
        prefix = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    command = [*prefix, str(BINARY), "import", *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def check(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [str(BINARY), "check", "--config", str(directory / "synvisor.toml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "old.key"
    path.write_text(KEY)
    return path


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    """Files as Debian's package has them, where they say that they are."""
    directory = tmp_path / "matrix-synapse"
    shutil.copytree(CASES / "debian", directory)
    for path in directory.rglob("*.yaml"):
        path.write_text(path.read_text().replace("ROOT", str(directory)))
    return directory


def test_what_is_written_passes_check_and_is_closed_to_others(debian: Path, tmp_path: Path) -> None:
    # Mutation: secrets with mode 0644: seen red.
    out = tmp_path / "out"
    (debian / "homeserver-2023.yaml").write_text("server_name: old.example.com\n")
    ran = run(debian, "--output", out)
    assert ran.returncode == 0, ran.stderr
    assert (
        "homeserver-2023.yaml" in ran.stdout and "old.example.com" not in (out / "synvisor.toml").read_text()
    )
    assert (out / "REPORT.md").read_text().strip() in ran.stdout.strip()
    assert "hunter2" not in ran.stdout + (out / "synvisor.toml").read_text() + (out / "REPORT.md").read_text()
    secrets = sorted(path.name for path in (out / "secrets").iterdir())
    assert secrets == [
        "database_password",
        "form_secret",
        "macaroon_secret_key",
        "registration_shared_secret",
        "signing.key",
    ]
    assert {mode(path) for path in (out / "secrets").iterdir()} == {0o600}
    assert mode(out / "secrets") & 0o007 == 0 and mode(out / "synvisor.toml") & 0o007 == 0
    checked = check(out)
    assert checked.returncode == 0 and checked.stderr == "", checked.stderr
    assert "no mistakes found" in checked.stdout


def test_nothing_is_overwritten_be_it_one_file_of_many(debian: Path, tmp_path: Path) -> None:
    # Mutation: only synvisor.toml looked at: seen red.
    for taken in ("synvisor.toml", "REPORT.md", "secrets/form_secret"):
        out = tmp_path / taken.replace("/", "-")
        (out / taken).parent.mkdir(parents=True)
        (out / taken).write_text("mine")
        ran = run(debian, "--output", out)
        assert ran.returncode == 1 and "is there already" in ran.stderr and "--output" in ran.stderr
        assert (out / taken).read_text() == "mine"
        assert [path for path in out.rglob("*") if path.is_file()] == [out / taken]


def test_a_missing_signing_key_is_required_and_can_be_given(debian: Path, tmp_path: Path, key: Path) -> None:
    # Mutation: the given key not looked at: seen red.
    (debian / "homeserver.signing.key").unlink()
    ran = run(debian, "--output", tmp_path / "without")
    assert ran.returncode == 0 and "--signing-key" in ran.stdout
    checked = check(tmp_path / "without")
    assert checked.returncode == 0 and "signing.key" in checked.stderr
    ran = run(debian, "--output", tmp_path / "with", "--signing-key", key)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "with/secrets/signing.key").read_text() == KEY
    assert check(tmp_path / "with").stderr == ""
    (tmp_path / "none.key").write_text("-----BEGIN PRIVATE KEY-----\n")
    ran = run(debian, "--output", tmp_path / "wrong", "--signing-key", tmp_path / "none.key")
    assert ran.returncode == 1 and "is no signing key" in ran.stderr
    assert not (tmp_path / "wrong").exists()


def test_what_lies_in_a_volume_is_found_where_that_is(tmp_path: Path) -> None:
    data = tmp_path / "volume"
    shutil.copytree(CASES / "docker-env", data)
    ran = run(data / "synapse.env", "--mount", f"/data={data}", "--output", tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "out/secrets/signing.key").read_text() == KEY
    assert check(tmp_path / "out").stderr == ""
    wrong = run(data / "synapse.env", "--mount", "data=x", "--output", tmp_path / "out")
    assert wrong.returncode == 64 and "/data=/srv/synapse" in wrong.stderr


@pytest.mark.parametrize(
    ("name", "text", "code", "said"),
    [
        ("homeserver.yaml", "server_name: a\nform_secret: hunter2\n  b: [1\n", 78, ":3:"),
        ("homeserver.yaml", "report_stats: false\n", 78, "server_name"),
        ("homeserver.yaml", "server_name: UPPER.example.com\n", 78, "lower case"),
        ("homeserver.yaml", "server_name: a.b\ndatabases: {a: {}, b: {}}\n", 78, "one database"),
        ("song.txt", "la la la\n", 78, "nothing that can be imported"),
        ("x.env", "SYNAPSE_SERVER_NAME=a.b\nSYNAPSE_WORKER_TYPES=pushr\n", 78, "no type of worker pushr"),
        ("two.yaml", "server_name: a.b\n---\nserver_name: b.c\n", 78, "second document"),
        ("homeserver.yaml", None, 1, "is there"),
    ],
)
def test_what_cannot_be_imported_is_named_with_a_remedy(
    tmp_path: Path, name: str, text: str | None, code: int, said: str
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    ran = run(path, "--output", tmp_path / "out")
    assert ran.returncode == code and said in ran.stderr, ran.stderr
    assert str(path) in ran.stderr or "source" in ran.stderr or "synvisor.toml" in ran.stderr
    assert len(ran.stderr.splitlines()) > 1 and "hunter2" not in ran.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not ROOT_USER, reason="root has to become somebody else first")
def test_a_file_that_may_not_be_read_is_named() -> None:
    directory = Path(f"/tmp/sv-import-{os.getpid()}")
    directory.mkdir(mode=0o777)
    try:
        path = directory / "homeserver.yaml"
        path.write_text("server_name: a.b\n")
        path.chmod(0o600)
        ran = run(path, "--output", directory / "out", ordinary=True)
        assert ran.returncode == 77 and str(path) in ran.stderr and "root" in ran.stderr
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def blog(key: Path) -> Iterator[Deployment]:
    """The homeserver of the blog's variables, with PostgreSQL and Redis of the test's own.

    Synapse asks the provider of single sign-on for its endpoints when it starts, and that one is not there;
    and the virtualenv of the tests lacks what previews of pages are made with.
    """
    home = Deployment(server_name="example.com")
    variables = home.directory / "vars.yml"
    text = (CASES / "blog/vars.yml").read_text()
    endpoints = ("authorization_endpoint", "token_endpoint", "userinfo_endpoint", "jwks_uri")
    listed = "".join(f'      {name}: "https://auth.example.com/{name}"\n' for name in endpoints)
    text = text.replace("      discover: true\n", f"      discover: false\n{listed}")
    variables.write_text(f"{text}matrix_synapse_url_preview_enabled: false\n")
    home.toml.unlink()
    ran = run(variables, CASES / "blog/hosts", "--output", home.directory, "--signing-key", key)
    assert ran.returncode == 0, ran.stderr
    imported = home.toml.read_text()
    here = f"""
[redis]
mode = "embedded"
[python]
venv = "{home.venv}"
[[listen]]
address = "127.0.0.1:{home.port}"
[supervisor]
state_dir = "{home.state}"
run_dir = "{home.run}"
user = "{home.user}"
router_user = "{home.router_user}"
"""
    pattern = r"\[database\]\n(?:.+\n)*"
    assert re.search(pattern, imported)
    home.toml.write_text(re.sub(pattern, '[database]\nmode = "embedded"\n', imported) + here)
    try:
        yield home.start()
    finally:
        home.close()


def test_the_homeserver_of_the_blog_starts_and_lets_a_user_in(blog: Deployment) -> None:
    blog.wait_ready()
    units = set(blog.pids())
    assert {"main", "generic-1", "federation-sender-1", "media-repository-1"} <= units
    command = blog.command("user", "add", "alice", "--password-stdin")
    added = subprocess.run(
        command, input="a long password\n", capture_output=True, text=True, timeout=120, check=False
    )
    assert added.returncode == 0, added.stderr
    alice = blog.client().login("alice", "a long password")
    flows = alice.call("GET", "/_matrix/client/v3/login")["flows"]
    assert {"m.login.password", "m.login.sso"} <= {flow["type"] for flow in flows}
    # As the world comes: through Caddy, where the name of users leads to another host. Mutation: servers
    # sent to the host of server_name (src/render/front/sites.rs): seen red.
    with contextlib.closing(Fronts([NAME, PUBLIC])) as fronts:
        ports = fronts.start(blog.toml, ["delegated"], ["caddy"]).ports["caddy", "delegated"]

        def asked(
            method: str, path: str, body: dict[str, Any] | None = None, host: str = PUBLIC, token: str = ""
        ) -> dict[str, Any]:
            content = None if body is None else json.dumps(body).encode()
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            status, _, answer = fronts.ask(ports, host, method, path, headers, content)
            assert status == 200, (method, path, answer)
            found: dict[str, Any] = json.loads(answer)
            return found

        assert asked("GET", "/.well-known/matrix/server", host=NAME) == {"m.server": f"{PUBLIC}:443"}
        client = asked("GET", "/.well-known/matrix/client", host=NAME)
        assert client["m.homeserver"] == {"base_url": f"https://{PUBLIC}/"}
        assert asked("GET", "/_matrix/key/v2/server")["server_name"] == NAME
        identifier = {"type": "m.id.user", "user": "alice"}
        login = {"type": "m.login.password", "identifier": identifier, "password": "a long password"}
        token = asked("POST", "/_matrix/client/v3/login", login)["access_token"]
        assert asked("GET", "/_matrix/client/v3/account/whoami", token=token)["user_id"] == alice.user
