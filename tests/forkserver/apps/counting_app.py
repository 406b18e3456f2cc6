"""Synapse, which tells when it is ready how many templates it compiled and how many schemas it checked
itself.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import jinja2


def main() -> None:
    counts = {"templates": 0, "schemas": 0}

    environment: Any = jinja2.Environment
    validator: Any = importlib.import_module("jsonschema.validators").validator_for({})
    compile_template, iterate = environment.compile, validator.iter_errors

    def compiled(self: Any, *arguments: Any, **options: Any) -> Any:
        counts["templates"] += 1
        return compile_template(self, *arguments, **options)

    def iterated(self: Any, *arguments: Any, **options: Any) -> Any:
        # A schema is checked by being validated against the schema of schemas.
        counts["schemas"] += self.schema is self.META_SCHEMA
        return iterate(self, *arguments, **options)

    environment.compile = compiled
    validator.iter_errors = iterated
    base: Any = importlib.import_module("synapse.app._base")
    plain = base.sdnotify

    def notify(state: bytes) -> None:
        if state.startswith(b"READY"):
            text = f"compiled {counts['templates']} templates, checked {counts['schemas']} schemas\n"
            os.write(2, text.encode())
        plain(state)

    base.sdnotify = notify
    app: Any = importlib.import_module(os.environ["SYNAPSE_APP"])
    app.main()
