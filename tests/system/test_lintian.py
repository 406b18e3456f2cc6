"""What Debian's own tool says of the package."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.support.toolchain import install_packages

from .service import package

pytestmark = pytest.mark.timeout(600)


def test_it_finds_nothing_that_is_not_explained() -> None:
    # Mutation: an override taken out: seen red.
    if shutil.which("lintian") is None:
        install_packages(["lintian"])
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", package("deb")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
