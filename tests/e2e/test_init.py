"""What `init` makes and what it leaves alone; virtualenvs by pip and by uv, from wheels and by hashes.

The Synapse in them is none, so that there is nothing to download; tests/e2e/test_new_synapse.py has real
ones, and tests/system/test_readme.py somebody who answers at a terminal.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import BINARY, ORDINARY, ROOT_USER, UNPRIVILEGED, Deployment
from tests.support.toolchain import prepare

VERSION = "9.9.9"
EXTERNAL = '[database]\nhost = "127.0.0.1"\n[redis]\nmode = "external"\n'


def wheel(directory: Path, name: str, version: str) -> Path:
    """One with a module in it, and nothing that it needs."""
    described = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "",
        f"{described}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{described}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = ""
    for place, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        record += f"{place},sha256={digest},{len(text)}\n"
    files[f"{described}/RECORD"] = record + f"{described}/RECORD,,\n"
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for place, text in files.items():
            archive.writestr(place, text)
    return path


class Maker:
    """A homeserver that has nothing but its configuration, and one way to make virtualenvs."""

    def __init__(self, tool: str) -> None:
        self.home = Deployment("generic = 1", services=EXTERNAL)
        self.home.python = f'synapse = "{VERSION}"\npackages = ["extra_module"]'
        self.home.write()
        self.wheels = self.home.directory / "wheels"
        self.wheels.mkdir()
        self.files = [
            wheel(self.wheels, "matrix_synapse", VERSION),
            wheel(self.wheels, "extra_module", "1.0"),
        ]
        self.tool = tool

    def init(self, *options: str) -> subprocess.CompletedProcess[str]:
        """It fails in the end, since this is no Synapse that runs."""
        found = f"{prepare() / 'bin'}:{os.environ['PATH']}" if self.tool == "uv" else "/usr/bin:/bin"
        return subprocess.run(
            self.home.command("init", "--yes", "--wheels", str(self.wheels), *options),
            env={"PATH": found},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def lock(self, **replaced: str) -> str:
        """A file of requirements with the hashes of the wheels, or with what is said in their place."""
        lines = []
        for file in self.files:
            name, version, *_ = file.name.split("-")
            digest = replaced.get(name, hashlib.sha256(file.read_bytes()).hexdigest())
            lines.append(f"{name}=={version} --hash=sha256:{digest}\n")
        path = self.home.directory / "requirements.txt"
        path.write_text("".join(lines), encoding="utf-8")
        return str(path)

    def made(self) -> Path:
        """The one virtualenv that there is."""
        (found,) = (self.home.state / "venvs").glob(f"{VERSION}*/")
        return found

    def holds(self, package: str) -> bool:
        return bool(list(self.made().glob(f"lib/python3*/site-packages/{package}-*.dist-info")))


@pytest.fixture(params=["pip", "uv"])
def maker(request: pytest.FixtureRequest) -> Iterator[Maker]:
    maker = Maker(request.param)
    try:
        yield maker
    finally:
        maker.home.close()


def test_it_is_made_once_from_wheels_alone(maker: Maker) -> None:
    # Mutation: uv not looked for: seen red.
    first = maker.init()
    assert f"{maker.made()} (made in" in first.stdout, first
    assert maker.holds("matrix_synapse")
    assert maker.holds("extra_module")
    config = (maker.made() / "pyvenv.cfg").read_text(encoding="utf-8")
    assert ("\nuv = " in config) == (maker.tool == "uv"), config
    assert "psycopg2" in first.stderr, first
    again = maker.init()
    assert f"{maker.made()} (it is there)" in again.stdout, again


def test_a_lock_file_says_what_is_installed_and_what_not(maker: Maker) -> None:
    # Mutation: `--require-hashes` left out: seen red.
    refused = maker.init("--lock", maker.lock(extra_module="0" * 64))
    assert refused.returncode == 1, refused
    assert "hash" in refused.stderr.lower(), refused
    assert Path(f"{maker.made()}.unfinished").exists()
    without = maker.home.directory / "without"
    without.write_text(f"matrix_synapse=={VERSION}\n", encoding="utf-8")
    refused = maker.init("--lock", str(without))
    assert "hash" in refused.stderr.lower(), refused
    done = maker.init("--lock", maker.lock())
    assert f"{maker.made()} (made in" in done.stdout, done
    assert maker.holds("extra_module")


def test_a_lock_file_of_another_synapse_is_noticed(maker: Maker) -> None:
    # Mutation: the version that was installed not looked at: seen red.
    maker.files[0] = wheel(maker.wheels, "matrix_synapse", "9.9.8")
    refused = maker.init("--lock", maker.lock())
    assert refused.returncode == 1, refused
    assert "9.9.8 was installed in place of Synapse 9.9.9" in refused.stderr, refused
    assert Path(f"{maker.made()}.unfinished").exists()


def test_a_new_python_of_the_system_is_a_reason_to_make_it_anew(maker: Maker) -> None:
    # Mutation: whatever was once complete taken: seen red.
    maker.init()
    library = next((maker.made() / "lib").iterdir())
    library.rename(library.with_name("python3.3"))
    again = maker.init()
    assert f"{maker.made()} (made in" in again.stdout, again
    assert maker.holds("matrix_synapse")
    assert not (maker.made() / "lib/python3.3").exists()


def test_the_newest_version_is_found_also_when_the_tools_for_that_broke(maker: Maker) -> None:
    # Mutation: whatever is there taken for tools: seen red.
    maker.home.python = "# Nobody has said which one."
    maker.home.write()
    text = maker.home.toml.read_text(encoding="utf-8")
    for _ in range(2):
        maker.home.toml.write_text(text, encoding="utf-8")
        done = maker.init()
        assert str(maker.made()) in done.stdout, done
        assert f'synapse = "{VERSION}"' in maker.home.toml.read_text(encoding="utf-8")
        for library in (maker.home.state / "venvs/.tools/lib").glob("*"):
            shutil.rmtree(library)


def test_a_python_that_is_too_old_is_refused(maker: Maker) -> None:
    # Mutation: any Python taken: seen red.
    old = maker.home.directory / "python3.8"
    old.write_text("#!/bin/sh\necho 3 8\n", encoding="utf-8")
    old.chmod(0o755)
    refused = maker.init("--python", str(old))
    assert refused.returncode == 1, refused
    assert f"{old} is Python 3.8, and Synapse needs 3.10 or newer\n" in refused.stderr, refused
    assert not list((maker.home.state / "venvs").glob(f"{VERSION}*/"))


@pytest.fixture
def path() -> Iterator[Path]:
    """A configuration that nobody has touched but for what a test writes, where every user gets to."""
    with tempfile.TemporaryDirectory(prefix="sv") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "synvisor.toml"


def init(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """It ends before anything is made, since there is no such Python."""
    return subprocess.run(
        [BINARY, "init", "--yes", "--config", path, "--python", "/nonexistent/python", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def untouched(path: Path, text: str) -> str:
    """A file that says where everything is, and beside that this."""
    directory = path.parent
    user = f'user = "{UNPRIVILEGED}"\nrouter_user = "{UNPRIVILEGED}"\n' if ROOT_USER else ""
    whole = f"""server_name = "example.com"
{text}
[python]
synapse = "{VERSION}"
[supervisor]
state_dir = "{directory}/state"
run_dir = "{directory}/run"
{user}"""
    path.write_text(whole, encoding="utf-8")
    return whole


def test_what_was_written_before_the_first_init_stays(path: Path) -> None:
    # Mutation: whatever is suggested written: seen red.
    text = untouched(
        path,
        '''public_baseurl = "https://chat.a.org/" # ours
[workers]
preset = "none"
generic = 3
[database]
host = "db.a.org"
[redis]
host = "redis.a.org"''',
    )
    assert "is no Python" in init(path, "--server-name", "a.org").stderr
    assert path.read_text(encoding="utf-8") == text.replace("example.com", "a.org")
    before = path.read_text(encoding="utf-8")
    for flag, value, said in (
        ("--server-name", "b.org", "says a.org"),
        ("--public-baseurl", "https://b.org", "says https://chat.a.org/"),
        ("--preset", "one-of-each", "says none"),
        ("--redis", "embedded", "set up already"),
    ):
        refused = init(path, flag, value)
        assert refused.returncode == 1, refused
        assert said in refused.stderr, refused
        assert flag in refused.stderr, refused
    assert path.read_text(encoding="utf-8") == before
    # Who says the same again is right.
    again = init(path, "--server-name", "a.org", "--public-baseurl", "https://chat.a.org", "--preset", "none")
    assert "is no Python" in again.stderr, again


def test_what_nobody_has_written_is_as_it_is_suggested(path: Path) -> None:
    untouched(path, "")
    init(
        path,
        "--server-name",
        "a.org",
        "--database",
        "external",
        "--preset",
        "one-of-each",
        "--redis",
        "embedded",
    )
    text = path.read_text(encoding="utf-8")
    user = UNPRIVILEGED if ROOT_USER else "synvisor"
    for line in (
        'server_name = "a.org"',
        'public_baseurl = "https://a.org/"',
        'preset = "one-of-each"',
        f'[database]\nuser = "{user}"\nmode = "external"',
        '[redis]\nmode = "embedded"',
    ):
        assert line in text, text


@pytest.mark.skipif(not ROOT_USER, reason="whoever is not root has nothing to lose")
def test_no_link_of_the_services_user_leads_root_anywhere(maker: Maker) -> None:
    # Mutation: secrets made by root: seen red.
    home = maker.home
    other = home.directory / "roots"
    other.mkdir(mode=0o755)
    home.state.mkdir()
    (home.state / "secrets").symlink_to(other)
    assert ORDINARY
    os.chown(home.state, *ORDINARY)
    refused = maker.init()
    assert refused.returncode == 1, refused
    assert "Permission denied" in refused.stderr or "secrets" in refused.stderr, refused
    assert list(other.iterdir()) == []
    assert other.stat().st_uid == 0
