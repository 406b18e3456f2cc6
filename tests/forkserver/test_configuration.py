"""Synapse's own reading of files that nobody runs with yet."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from .homeserver import CONFIG, LOG
from .supervisor import BOOTSTRAP, interpreter


def read(*files: Path) -> dict[str, tuple[str | None, list[str]]]:
    """What Synapse has against each, and where."""
    done = subprocess.run(
        [interpreter(), "-I", "-B", str(BOOTSTRAP), "check", *map(str, files)],
        capture_output=True,
        text=True,
        check=True,
    )
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    return {Path(one["file"]).name: (one["problem"], one["path"]) for one in verdicts}


def test_each_file_has_its_verdict(tmp_path: Path) -> None:
    text = CONFIG.format(directory=tmp_path, path=tmp_path / "main.sock")
    (tmp_path / "log.yaml").write_text(LOG)
    subprocess.run(
        [
            interpreter(),
            "-c",
            "import sys; from signedjson.key import generate_signing_key as g, write_signing_keys as w;"
            "w(open(sys.argv[1], 'w'), [g('a')])",
            tmp_path / "signing.key",
        ],
        check=True,
    )
    files = {
        "good.yaml": "",
        "refused.yaml": "oidc_providers: [{idp_id: x}]\n",
        "module.yaml": "modules: [{module: no_such_module.Class, config: {}}]\n",
        "crash.yaml": "max_upload_size: many\n",
    }
    for name, more in files.items():
        (tmp_path / name).write_text(text + more)
    verdicts = read(*(tmp_path / name for name in files))
    assert verdicts["good.yaml"] == (None, [])
    problem, path = verdicts["refused.yaml"]
    assert problem
    assert "not valid" in problem
    assert path[0] == "oidc_providers"
    for name, word in (("module.yaml", "no_such_module"), ("crash.yaml", "many")):
        problem, _ = verdicts[name]
        assert problem
        assert word in problem, problem
