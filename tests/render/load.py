"""Loads configuration files as the processes of Synapse do, and prints as JSON what each process would do.

`python -m synapse.config -c FILE` calls `HomeServerConfig.load_config`; calling it here saves importing
Synapse anew for each file.
"""

import json
import logging.config
import sys
from pathlib import Path

import yaml
from synapse.config._base import ConfigError
from synapse.config.homeserver import HomeServerConfig

STREAMS = (
    "events",
    "typing",
    "to_device",
    "account_data",
    "receipts",
    "presence",
    "push_rules",
    "device_lists",
    "thread_subscriptions",
    "quarantined_media_changes",
)


def duties(config: HomeServerConfig) -> list[str]:
    worker = config.worker
    held = {
        "background": worker.run_background_tasks,
        "federation_sender": worker.send_federation,
        "pusher": worker.start_pushers,
        "appservice": worker.should_notify_appservices,
        "user_dir": worker.should_update_user_directory,
        "media": config.media.can_load_media_repo,
        "media_jobs": config.media.can_load_media_repo
        and config.media.media_instance_running_background_jobs in (None, worker.instance_name),
    }
    return [name for name, holds in held.items() if holds] + [
        stream for stream in STREAMS if worker.instance_name in getattr(worker.writers, stream)
    ]


def listeners(config: HomeServerConfig) -> list[dict]:
    used = config.worker.worker_listeners if config.worker.worker_app else config.server.listeners
    return [
        {
            "path": listener.path,
            "mode": listener.mode,
            "resources": [name for resource in listener.http_options.resources for name in resource.names],
        }
        for listener in used
    ]


def describe(path: str) -> dict:
    try:
        config = HomeServerConfig.load_config("", ["-c", path])
    except (ConfigError, TypeError, ValueError, KeyError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    worker = config.worker
    log_config = worker.worker_log_config if worker.worker_app else config.logging.log_config
    logging.config.dictConfig(yaml.safe_load(Path(log_config).read_bytes()))
    return {
        "name": worker.instance_name,
        "duties": duties(config),
        "listeners": listeners(config),
        "instance_map": sorted(worker.instance_map),
        "replication_secret": worker.worker_replication_secret,
        "registration_secret": config.registration.registration_shared_secret,
        "macaroon_secret": config.key.macaroon_secret_key.decode(),
        "form_secret": config.key.form_secret,
        "oidc_secrets": [provider.client_secret for provider in config.oidc.oidc_providers],
        "smtp_pass": config.email.email_smtp_pass,
        "turn_secret": config.voip.turn_shared_secret,
        "storage": [name for _, name, _ in config.media.media_storage_providers]
        if config.media.can_load_media_repo
        else [],
        "cache_factor": config.caches.global_factor,
        "pool": [config.database.databases[0].config["args"][key] for key in ("cp_min", "cp_max")],
        "gc_thresholds": config.server.gc_thresholds,
        "log_level": logging.getLogger().level,
        "redis": [config.redis.redis_enabled, getattr(config.redis, "redis_path", None)],
    }


if __name__ == "__main__":
    print(json.dumps([describe(path) for path in sys.argv[1:]]))
