"""Prints what a database says of itself, and what others see of a homeserver, as JSON.

Standard input is a JSON object; what it has is looked at, and answered by "Ok" or "Err":

- `connection`, what psycopg2 connects with: `database`.
- `forged`, an address that requests claim to come for, with `server_name` and `public_baseurl`: `public`.
- `record`, the name, target and port of an SRV record: `federation`.
"""

import http.client
import ipaddress
import json
import socket
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request

TIMEOUT = 10
LARGEST = 64 * 1024

# What comes of JSON that is something else than was asked for.
ODD = (ValueError, LookupError, TypeError, RecursionError)


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
            # Which kind another role's session is of, is hidden (null) from who is no member of that role;
            # nothing else has a database but a few of PostgreSQL's own workers.
            "others": one(
                "SELECT count(*) FROM pg_stat_activity WHERE datname <> current_database()"
                " AND coalesce(backend_type, 'client backend') = 'client backend'"
            )[0],
            "version": held.server_version,
        }


def short(error):
    reason = getattr(error, "reason", error)
    return " ".join(str(reason).split()) or type(error).__name__


def outcome(call):
    try:
        return {"Ok": call()}
    except Exception as error:
        return {"Err": short(error)}


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


def text(value):
    if not isinstance(value, str):
        raise TypeError
    # Half a surrogate pair, which JSON can say, is no text for whoever reads this.
    value.encode()
    return value


def place(name):
    """The host, and the port or none, that a server's name says; a ValueError if it is none."""
    parsed = urllib.parse.urlsplit(f"//{name}")
    host, port = parsed.hostname, parsed.port
    if parsed.netloc != name or "@" in name or not host or port == 0:
        raise ValueError(name)
    return host, port


def is_address(host):
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def well_known(host, name, pick):
    shown = f"[{host}]" if ":" in host else host
    try:
        status, headers, body = fetch(f"https://{shown}/.well-known/matrix/{name}")
    except Exception as error:
        return {"Wrong": short(error)}
    if status == 404:
        return "Absent"
    if status != 200:
        return {"Wrong": f"it answers {status}"}
    try:
        value = pick(json.loads(body))
    except ODD:
        return {"Wrong": "it is not the JSON that the Matrix specification wants"}
    return {"Says": {"value": value, "cors": headers.get("Access-Control-Allow-Origin") == "*"}}


def destination(answer):
    value = text(answer["m.server"])
    place(value)
    return value


class Way(http.client.HTTPSConnection):
    """To a host that is to prove its name, wherever it is."""

    def __init__(self, host, target, port):
        super().__init__(host, port, timeout=TIMEOUT)
        self.target = target

    def connect(self):
        plain = socket.create_connection((self.target, self.port), TIMEOUT)
        self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)


def federation(name, target, port):
    """The name of the homeserver that other servers end up at who were told `name`."""
    try:
        connection = Way(place(name)[0], target, port)
        connection.request("GET", "/_matrix/key/v2/server", headers={"Host": name, "User-Agent": "synvisor"})
        answer = connection.getresponse()
        body = answer.read(LARGEST)
        connection.close()
    except Exception as error:
        return {"Err": f"{target}:{port}: {short(error)}"}
    try:
        return {"Ok": text(json.loads(body)["server_name"])}
    except ODD:
        return {"Err": f"{target}:{port} answers {answer.status}, and not as a homeserver does"}


def seen(headers):
    """Whom the router took for the client, if it was the router that answered."""
    try:
        address = ipaddress.ip_address(headers["Synvisor-Client"])
        return {"address": str(address), "believed": min(abs(int(headers["Synvisor-Believed"])), 100)}
    except (ValueError, TypeError):
        return None


def source(url):
    """The address that this machine has for whom it asks there; none if that is not asked directly."""
    parsed = urllib.parse.urlsplit(url)
    try:
        port = parsed.port or (443 if parsed.scheme == "https" else 80)
        with socket.create_connection((parsed.hostname, port), TIMEOUT) as connection:
            return connection.getsockname()[0].partition("%")[0]
    except (OSError, ValueError):
        return None


def public(server_name, public_baseurl, forged):
    name = server_name
    host, port = place(name)
    own = host
    server = "Absent"
    if port is None and not is_address(host):
        server = well_known(host, "server", destination)
    if "Says" in server:
        name = server["Says"]["value"]
        host, port = place(name)
    found = {
        "unasked": None,
        "server": server,
        # Clients ask the host of the name, whatever port that has.
        "client": well_known(own, "client", lambda answer: text(answer["m.homeserver"]["base_url"])),
        "federation": federation(name, host, port or 8448),
        "by_record": None if port or is_address(host) else host,
        "clients": {"Ok": None},
        "seen": None,
        "from": source(public_baseurl),
        "admin": None,
    }
    base = public_baseurl.rstrip("/")
    try:
        status, _, body = fetch(f"{base}/_matrix/client/versions")
        try:
            known = json.loads(body)["versions"]
        except ODD:
            known = None
        if status != 200 or known is None:
            raise Strange(f"it answers {status}, and not as a homeserver does")
        found["seen"] = seen(fetch(f"{base}/health", {"X-Forwarded-For": forged})[1])
        found["admin"] = fetch(f"{base}/_synapse/admin/v1/server_version")[0]
    except Exception as error:
        found["clients"] = {"Err": short(error)}
    return found


asked = json.load(sys.stdin)
answers = {}
if asked.get("connection"):
    answers["database"] = outcome(lambda: database(asked["connection"]))
if asked.get("forged"):
    answers["public"] = outcome(
        lambda: public(asked["server_name"], asked["public_baseurl"], asked["forged"])
    )
if asked.get("record"):
    answers["federation"] = federation(*asked["record"])
print(json.dumps(answers))
