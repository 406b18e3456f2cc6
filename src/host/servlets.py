"""Prints as JSON which requests the main process and a generic worker of this Synapse answer.

Calls what Synapse itself calls when it opens a listener, with a real configuration and nothing behind it,
and catches the tree of resources before it is listened on.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import re
import sys
import types
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock, patch

from synapse.api.auth.mas import MasDelegatedAuth
from synapse.app import _base, generic_worker, homeserver
from synapse.config import ConfigError
from synapse.config.homeserver import HomeServerConfig
from synapse.config.server import parse_listener_def
from synapse.rest.media.media_repository_resource import MediaRepositoryResource

if sys.version_info >= (3, 11):
    from re import _parser as sre
else:
    import sre_parse as sre

# `synapse.config.experimental` names every flag that it reads.
FLAG = re.compile(r'"(msc\d+(?:_\w+)?)"')

VERBS = ("GET", "POST", "PUT", "DELETE")

BASE: dict[str, Any] = {
    "server_name": "verify.invalid",
    "public_baseurl": "https://verify.invalid/",
    "report_stats": False,
    "suppress_key_server_warning": True,
    "signing_key": "ed25519 a_verify H7g1x3mSSlyFPgRlzOrQfsDQcpTBUmoWFMEyKEJcoB4",
    "macaroon_secret_key": "verify",
    "form_secret": "verify",
    "media_store_path": "/nonexistent",
    "enable_media_repo": True,
    "database": {"name": "sqlite3", "args": {"database": ":memory:"}},
    "redis": {"enabled": True},
    "email": {"smtp_host": "localhost", "notif_from": "a@b"},
    "federation_whitelist_endpoint_enabled": True,
    "worker_replication_secret": "verify",
    "instance_map": {"main": {"path": "/nonexistent/main.sock"}},
}
WORKER = {"worker_app": "synapse.app.generic_worker", "worker_name": "worker"}


def variants() -> Iterator[tuple[str, dict[str, Any]]]:
    """Settings that register servlets which others do not, each with a name."""
    yield "plain", {}
    with open(sys.modules["synapse.config.experimental"].__file__ or "", encoding="utf-8") as source:
        flags = {name: True for name in FLAG.findall(source.read()) if name.endswith("_enabled")}
    # Flags that exclude each other, or want settings of their own, are left to their defaults.
    wanted = {name: True for name in flags if name not in ("msc4108_enabled", "msc3861_enabled")}
    yield "experimental", {"experimental_features": {**wanted, "msc3983_appservice_otk_claims": True}}
    mas = {
        "matrix_authentication_service": {"enabled": True, "endpoint": "http://mas.invalid/", "secret": "s"},
        "password_config": {"enabled": False},
        "enable_registration": False,
    }
    # What 1.163 calls open, versions before it called public.
    modes = [{"msc4108_enabled": True, "msc4388_mode": mode} for mode in ("open", "public")]
    understood = (features for features in modes if is_understood({**mas, "experimental_features": features}))
    yield "mas", {**mas, "experimental_features": next(understood, {"msc4108_enabled": True})}
    sso: dict[str, Any] = {
        "refreshable_access_token_lifetime": "5m",
        "login_via_existing_session": {"enabled": True},
        "cas_config": {"enabled": True, "server_url": "https://cas.invalid"},
        "oidc_providers": [
            {
                "idp_id": "x",
                "idp_name": "x",
                "discover": False,
                "issuer": "https://op.invalid/",
                "client_id": "x",
                "client_secret": "x",
                "authorization_endpoint": "https://op.invalid/a",
                "token_endpoint": "https://op.invalid/t",
                "jwks_uri": "https://op.invalid/j",
                "user_mapping_provider": {"config": {"localpart_template": "{{ user.sub }}"}},
            }
        ],
    }
    if importlib.util.find_spec("authlib") is None:
        # Without it this Synapse has no single sign-on by OpenID Connect.
        del sso["oidc_providers"]
    yield "sso", sso


def parsed(settings: dict[str, Any]) -> HomeServerConfig:
    config = HomeServerConfig()
    # Creating the media store would be the parser's only trace on the disk.
    with patch("synapse.config._base.Config.ensure_directory", lambda _self, path: path):
        config.parse_config_dict(settings, "/nonexistent", "/nonexistent")
    return config


def is_understood(settings: dict[str, Any]) -> bool:
    try:
        parsed(copy.deepcopy({**BASE, **settings}))
    except ConfigError:
        return False
    return True


class Nothing(MagicMock):
    """Stands for everything behind the servlets; numbers of it compare like 1."""

    def __lt__(self, other: object) -> bool:
        return True

    def __gt__(self, other: object) -> bool:
        return False

    __le__, __ge__ = __lt__, __gt__


def resources(settings: dict[str, Any], worker: bool) -> dict[str, Any]:
    """What is mounted on a listener for clients, federation and media, by its prefix."""
    config = parsed(copy.deepcopy({**BASE, **settings, **(WORKER if worker else {})}))
    module, kind = (
        (generic_worker, generic_worker.GenericWorkerServer)
        if worker
        else (homeserver, homeserver.SynapseHomeServer)
    )
    server = Nothing()
    server.config = config
    server.hostname = "verify.invalid"
    server._module_web_resources = {}
    server.get_instance_name.return_value = config.worker.instance_name
    server.get_media_repository_resource = lambda: MediaRepositoryResource(server)
    if config.mas.enabled:
        # The only thing behind a servlet whose type is asked for.
        server.get_auth.return_value = MagicMock(spec=MasDelegatedAuth)
    if not worker:
        server._configure_named_resource = types.MethodType(kind._configure_named_resource, server)
    names = ["client", "federation", "media"] if worker else ["client", "federation"]
    listener = parse_listener_def(
        0, {"type": "http", "path": "/nonexistent/x.sock", "resources": [{"names": names}]}
    )
    caught: dict[str, Any] = {}

    def catch(found: dict[str, Any], _root: object) -> MagicMock:
        caught.update(found)
        return MagicMock()

    with (
        patch.object(module, "create_resource_tree", catch),
        patch.object(_base, "listen_http", MagicMock()),
        patch.object(homeserver, "listen_http", MagicMock()),
    ):
        (kind._listen_http if worker else kind._listener_http)(
            server, *(() if worker else (config,)), listener
        )
    # The router answers this one itself.
    del caught["/health"]
    return caught


def answered(found: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Method, pattern on the whole path and servlet of everything below these resources."""
    for prefix, resource in found.items():
        routes = getattr(resource, "_routes", None)
        children = {f"{prefix}/{name.decode()}": child for name, child in resource.children.items()}
        yield from answered(children)
        if routes is None:
            # A resource with children is a mere branch of the tree.
            if not children:
                methods = [verb for verb in VERBS if hasattr(resource, f"render_{verb}")]
                methods += [verb for verb in VERBS if hasattr(resource, f"_async_render_{verb}")]
                for verb in methods or ["*"]:
                    yield verb, f"^{re.escape(prefix)}(/|$)", type(resource).__name__
            continue
        for pattern, methods in routes.items():
            for method, entry in methods.items():
                yield method.decode(), pattern.pattern, entry.servlet_classname


def samples(pattern: str) -> list[str]:
    """Paths that a pattern describes: every alternative, optional parts left out and put in."""

    def expand(parts: Any, repeated: bool = False) -> list[str]:
        found = [""]
        for kind, value in parts:
            name = str(kind)
            if name == "LITERAL":
                pieces = [chr(value)]
            elif name == "ANY" and not repeated:
                # A dot between letters that nobody has escaped.
                pieces = ["."]
            elif name in ("IN", "NOT_LITERAL", "ANY"):
                pieces = ["w"]
            elif name in ("MAX_REPEAT", "MIN_REPEAT"):
                least, most, inner = value
                once = [piece * max(least, 1) for piece in expand(inner, most > 1)] if most else []
                pieces = once + ([""] if least == 0 else [])
            elif name == "SUBPATTERN":
                pieces = expand(value[3], repeated)
            elif name == "BRANCH":
                pieces = [piece for branch in value[1] for piece in expand(branch, repeated)]
            elif name == "AT":
                pieces = [""]
            else:
                raise ValueError(f"{pattern}: what is {name}?")
            found = [head + piece for head in found for piece in pieces]
        return found

    return sorted(path for path in set(expand(sre.parse(pattern))) if re.match(pattern, path))


def main() -> None:
    logging.disable(logging.CRITICAL)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for variant, settings in variants():
        for worker in (False, True):
            for method, pattern, servlet in answered(resources(settings, worker)):
                new = {
                    "method": method,
                    "pattern": pattern,
                    "servlet": servlet,
                    "main": False,
                    "worker": False,
                }
                row = rows.setdefault((method, pattern), {**new, "variants": [], "samples": samples(pattern)})
                row["worker" if worker else "main"] = True
                if variant not in row["variants"]:
                    row["variants"].append(variant)
    print(json.dumps(list(rows.values())))


if __name__ == "__main__":
    main()
