"""Prints what a database says of itself, and what others see of a homeserver, as JSON.

Standard input is a JSON object: `connection` (what psycopg2 connects with), `server_name`, `public_baseurl`,
and `forged`, an address that the request claims to come for.
"""

import http.client
import ipaddress
import json
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request

TIMEOUT = 10
LARGEST = 64 * 1024


def database(connection):
    import psycopg2

    with psycopg2.connect(**connection, connect_timeout=TIMEOUT) as held, held.cursor() as cursor:

        def one(statement):
            cursor.execute(statement)
            return cursor.fetchone()

        encoding, collate, ctype = one(
            "SELECT pg_encoding_to_char(encoding), datcollate, datctype FROM pg_database"
            " WHERE datname = current_database()"
        )
        settings = "SELECT coalesce(sum(setting::int), 0) FROM pg_settings WHERE name = ANY(%s)"
        cursor.execute(settings, (["superuser_reserved_connections", "reserved_connections"],))
        reserved = cursor.fetchone()[0]
        return {
            "encoding": encoding,
            "collate": collate,
            "ctype": ctype,
            "max_connections": int(one("SHOW max_connections")[0]),
            "reserved": int(reserved),
            "others": one(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND datname IS DISTINCT FROM current_database()"
            )[0],
            "version": held.server_version,
        }


def short(error):
    reason = getattr(error, "reason", error)
    return str(reason) or type(error).__name__


class Strange(Exception):
    """An answer that is none."""


def fetch(url, headers=None):
    """Status, headers and body; what a server answers is never an error."""
    request = urllib.request.Request(url, headers={"User-Agent": "synvisor", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return answer.status, answer.headers, answer.read(LARGEST)
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read(LARGEST)


def well_known(host, name, pick):
    try:
        status, headers, body = fetch(f"https://{host}/.well-known/matrix/{name}")
    except Exception as error:
        return {"Wrong": short(error)}
    if status == 404:
        return "Absent"
    if status != 200:
        return {"Wrong": f"it answers {status}"}
    try:
        value = pick(json.loads(body))
    except (ValueError, KeyError, TypeError):
        return {"Wrong": "it is not the JSON that the Matrix specification wants"}
    return {"Says": {"value": value, "cors": headers.get("Access-Control-Allow-Origin") == "*"}}


def split(name, default):
    """Host and port of a server's name; whether it says the port itself, or is an address."""
    parsed = urllib.parse.urlsplit(f"//{name}")
    host = parsed.hostname or ""
    try:
        ipaddress.ip_address(host)
        literal = True
    except ValueError:
        literal = False
    return host, parsed.port or default, literal or parsed.port is not None


def federation(host, port):
    """The name of the homeserver that other servers end up at."""
    connection = http.client.HTTPSConnection(
        host, port, timeout=TIMEOUT, context=ssl.create_default_context()
    )
    try:
        connection.request("GET", "/_matrix/key/v2/server", headers={"User-Agent": "synvisor"})
        answer = connection.getresponse()
        body = answer.read(LARGEST)
    except Exception as error:
        return {"Err": f"{host}:{port}: {short(error)}"}
    finally:
        connection.close()
    try:
        return {"Ok": json.loads(body)["server_name"]}
    except (ValueError, KeyError, TypeError):
        return {"Err": f"{host}:{port} answers {answer.status}, and not as a homeserver does"}


def public(server_name, public_baseurl, forged):
    host, port, direct = split(server_name, 8448)
    server = "Absent" if direct else well_known(server_name, "server", lambda json: json["m.server"])
    if isinstance(server, dict) and "Says" in server:
        host, port, _ = split(server["Says"]["value"], 8448)
    found = {
        "unasked": None,
        "server": server,
        "client": well_known(server_name, "client", lambda json: json["m.homeserver"]["base_url"]),
        "federation": federation(host, port),
        "clients": {"Ok": None},
        "address": None,
        "admin": None,
    }
    base = public_baseurl.rstrip("/")
    try:
        status, _, body = fetch(f"{base}/_matrix/client/versions")
        if status != 200 or "versions" not in json.loads(body):
            raise Strange(f"it answers {status}")
        _, headers, _ = fetch(f"{base}/health", {"X-Forwarded-For": forged})
        found["address"] = headers.get("Synvisor-Client")
        found["admin"] = fetch(f"{base}/_synapse/admin/v1/server_version")[0]
    except Exception as error:
        found["clients"] = {"Err": short(error)}
    return found


def outcome(call):
    try:
        return {"Ok": call()}
    except Exception as error:
        return {"Err": " ".join(str(error).split()) or type(error).__name__}


asked = json.load(sys.stdin)
print(
    json.dumps(
        {
            "database": outcome(lambda: database(asked["connection"])),
            "public": public(asked["server_name"], asked["public_baseurl"], asked["forged"])
            if asked["forged"]
            else None,
        }
    )
)
