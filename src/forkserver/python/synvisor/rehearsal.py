"""Reads a configuration once before the first fork, and keeps what every process would compute again.

That is 40 % of a process's CPU time from fork to READY: compiling the templates that Synapse ships, and
checking that the JSON schemas in its source are valid schemas. Both depend on files of the virtualenv only,
not on a homeserver.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jinja2
from jinja2.bccache import Bucket, BytecodeCache

# The least that Synapse 1.163 takes; it names no file that exists, and is forgotten when it has been read.
CONFIGURATION = {
    "server_name": "rehearsal.invalid",
    "report_stats": False,
    "signing_key": "ed25519 a_rehearsal AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "macaroon_secret_key": "rehearsal",
    "form_secret": "rehearsal",
    "media_store_path": "/",
    "trusted_key_servers": [],
}


def rehearse() -> None:
    """Reads the configuration, and gives later readings in this process and its forks what it came to."""
    templates, schemas = CompiledTemplates(), CheckedSchemas()
    templates.install()
    with schemas.recorded():
        config: Any = importlib.import_module("synapse.config.homeserver").HomeServerConfig()
        config.parse_config_dict(CONFIGURATION, "", "")
    schemas.install()


class CompiledTemplates(BytecodeCache):
    """Jinja's own interface for this, in memory."""

    def __init__(self) -> None:
        self.codes: dict[tuple[str, str], Any] = {}

    def install(self) -> None:
        """Becomes the cache of every environment that has none and is like Synapse's: without extensions."""
        kind: Any = jinja2.Environment
        initialise = kind.__init__

        def with_cache(environment: Any, *arguments: Any, **options: Any) -> None:
            initialise(environment, *arguments, **options)
            plain = type(environment) is kind and not environment.extensions
            if plain and environment.bytecode_cache is None:
                environment.bytecode_cache = self

        kind.__init__ = with_cache

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self.codes.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        self.codes[bucket.key, bucket.checksum] = bucket.code


class CheckedSchemas:
    """The schemas that were found to be valid: constants of Synapse's modules, told apart by identity."""

    def __init__(self) -> None:
        self.kind: Any = importlib.import_module("jsonschema.validators").validator_for({})
        self.check = self.kind.check_schema
        self.schemas: dict[int, Any] = {}

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Notes what is checked meanwhile; keeping the object keeps its identity from being another's."""

        def checked(schema: Any, *arguments: Any, **options: Any) -> None:
            self.check(schema, *arguments, **options)
            self.schemas[id(schema)] = schema

        self.kind.check_schema = staticmethod(checked)
        try:
            yield
        finally:
            self.kind.check_schema = self.check

    def install(self) -> None:
        """Checks from now on only what was not checked."""

        def check(schema: Any, *arguments: Any, **options: Any) -> None:
            if id(schema) not in self.schemas:
                self.check(schema, *arguments, **options)

        self.kind.check_schema = staticmethod(check)
