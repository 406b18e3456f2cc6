"""Makes what a playbook would: `make.py CHECKOUT SCRATCH`, with `ansible-playbook` and PyYAML at hand.

CHECKOUT is a copy of matrix-docker-ansible-deploy. For each case of tests/import/cases with a vars.yml the
playbook's own role renders homeserver.yaml and the files of workers, which are written beside it without
comments. Names of former times, which the role no longer takes, are replaced before.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
CASES = HERE.parent / "cases"
KEY = "ed25519 a_test H7g1x3mSSlyFPgRlzOrQfsDQcpTBUmoWFMEyKEJcoB4\n"
RENAMED = {
    "matrix_synapse_use_presence": "matrix_synapse_presence_enabled",
    "matrix_synapse_cache_factor": "matrix_synapse_caches_global_factor",
    "matrix_enable_room_list_search": "matrix_synapse_enable_room_list_search",
}
# What stood in variables of its own and is part of another one now.
FOLDED = {
    "matrix_synapse_rc_messages_per_second": ("matrix_synapse_rc_message", "per_second"),
    "matrix_synapse_rc_message_burst_count": ("matrix_synapse_rc_message", "burst_count"),
    "matrix_synapse_federation_rc_window_size": ("matrix_synapse_rc_federation", "window_size"),
}
LIMITS = {
    "matrix_synapse_rc_message": {"per_second": 0.5, "burst_count": 30},
    "matrix_synapse_rc_federation": {
        "window_size": 1000,
        "sleep_limit": 10,
        "sleep_delay": 500,
        "reject_limit": 50,
        "concurrent": 3,
    },
}


def present(variables: dict) -> dict:
    """Variables by their present names."""
    found: dict = {}
    for name, value in variables.items():
        if name in FOLDED:
            group, key = FOLDED[name]
            found.setdefault(group, dict(LIMITS[group]))[key] = value
            continue
        # Sizes of caches follow from the machine's memory, which nobody here knows.
        if name.startswith("matrix_synapse_cache_autotuning"):
            continue
        name = RENAMED.get(name, name).replace("matrix_mailer_", "exim_relay_")
        found[name] = "specialized-workers" if value == "room-workers" else value
    return found


def make(case: Path, checkout: Path, scratch: Path) -> None:
    out = scratch / case.name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    variables = out / "variables"
    variables.write_text(yaml.safe_dump(present(yaml.safe_load((case / "vars.yml").read_text()))))
    # A lookup of the role takes templates beside the playbook.
    project = scratch / "project"
    if not project.exists():
        shutil.copytree(HERE, project)
        shutil.copytree(checkout / "roles/custom/matrix-synapse/templates", project / "templates")
    extra = [
        f"@{variables}",
        f"out={out}",
        f"checkout={checkout}",
        f"ansible_python_interpreter={sys.executable}",
    ]
    flags = [flag for value in extra for flag in ("-e", value)]
    environment = {**os.environ, "ANSIBLE_LOCALHOST_WARNING": "false"}
    command = ["ansible-playbook", "-i", "localhost,", *flags, "render.yml"]
    subprocess.run(command, cwd=project, env=environment, check=True, stdout=subprocess.DEVNULL)
    name = next(out.glob("homeserver.yaml"))
    fqn = Path(yaml.safe_load(name.read_text())["signing_key_path"]).name.removesuffix(".signing.key")
    # One case imports the files of workers too.
    for path in out.glob("*.yaml" if case.name == "blog" else "homeserver.yaml"):
        document = yaml.safe_load(path.read_text())
        text = yaml.safe_dump(document, sort_keys=False, width=100, allow_unicode=True)
        (case / path.name).write_text(text)
    (case / f"{fqn}.log.config").write_text((out / "log.config").read_text())
    (case / f"{fqn}.signing.key").write_text(KEY)


if __name__ == "__main__":
    for path in sorted(CASES.glob("*/vars.yml")):
        make(path.parent, Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
