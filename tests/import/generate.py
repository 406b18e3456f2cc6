"""Makes tests/import/generated: what `--generate-config` of many versions of Synapse writes.

    python tests/import/generate.py SCRATCH [VERSION …]

Makes a virtualenv for each version below SCRATCH (some 200 MB each), with the Python that it is run by, 3.12;
needs `uv` and the network. What is random is replaced by what says where it is from, so that a second run
changes nothing.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent / "generated"
VERSIONS = (
    *("1.100.0", "1.105.1", "1.110.0", "1.115.0", "1.120.2", "1.125.0", "1.130.0"),
    *("1.135.2", "1.140.0", "1.145.0", "1.149.1", "1.155.0", "1.160.0", "1.163.2"),
)
# Synapse before 1.150 sets no bound to these, and cannot be imported with what is younger than itself.
BOUNDS = ("setuptools<81", "prometheus-client<0.22", "txredisapi<1.6", "Twisted<25", "pyopenssl<25")
# The same for 1.120, of Twisted's own classes.
OLDER_BOUNDS = ("Twisted<24.10",)
SECRETS = ("registration_shared_secret", "macaroon_secret_key", "form_secret")


def run(*command: str | Path, cwd: Path | None = None) -> None:
    subprocess.run(command, check=True, cwd=cwd)


def generate(version: str, scratch: Path) -> None:
    venv, out = scratch / version / "venv", scratch / version / "out"
    if not venv.exists():
        run("uv", "-q", "venv", "--python", sys.executable, venv)
        minor = int(version.split(".")[1])
        bounds = (BOUNDS if minor < 150 else ()) + (OLDER_BOUNDS if minor < 120 else ())
        run(
            "uv",
            "-q",
            "pip",
            "install",
            "--python",
            venv / "bin/python",
            f"matrix-synapse=={version}",
            *bounds,
        )
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    flags = ["--server-name", "example.com", "--config-path", "homeserver.yaml", "--report-stats=no"]
    module = [venv / "bin/python", "-W", "ignore", "-m", "synapse.app.homeserver"]
    run(*module, *flags, "--generate-config", cwd=out)
    target = HERE / version
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in ("homeserver.yaml", "example.com.log.config"):
        text = (out / name).read_text().replace(str(out), "ROOT")
        for secret in SECRETS:
            text = re.sub(
                rf'^{secret}: ".*"$', f'{secret}: "{secret} of {version}"', text, flags=re.MULTILINE
            )
        lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        (target / name).write_text("\n".join(lines) + "\n")
    key = "ed25519 a_test H7g1x3mSSlyFPgRlzOrQfsDQcpTBUmoWFMEyKEJcoB4\n"
    (target / "example.com.signing.key").write_text(key)


if __name__ == "__main__":
    failed = []
    for version in sys.argv[2:] or VERSIONS:
        try:
            generate(version, Path(sys.argv[1]).resolve())
        except subprocess.CalledProcessError as error:
            failed.append(f"{version}: {error}")
    print("\n".join(failed))
    sys.exit(bool(failed))
