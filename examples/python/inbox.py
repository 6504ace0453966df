#!/usr/bin/python3
"""A page that shows the mail of one address, as disposable-mail sites do: the list, each mail, and new mails as they arrive.

    sudo -u goguerrilla GOGUERRILLA_CONFIG=/etc/goguerrilla/goguerrilla.conf python3 inbox.py 127.0.0.1:8080

It reads the configuration of goguerrilla. With the SQLite store it needs the standard library only, with MySQL also pymysql
(Debian: python3-pymysql), and for contents in one Redis server redis (python3-redis). It must run as the user of the server.
Anybody who knows an address can read its mail: that is the idea of such a site. Put a web server with TLS in front of it.
"""

import contextlib
import email
import email.policy
import html
import http.server
import json
import os
import re
import secrets
import socket
import sqlite3
import sys
import threading
import time
import urllib.parse
import zlib

MAILS_IN_LIST = 50
MAX_MAIL_OCTETS = 64 << 20  # an inflated mail; keep it above GSMTP_MAX_SIZE
LIVE_SECONDS = 50  # then the browser connects again; below usual time limits of proxies
POLL_SECONDS = 1  # without a feed
MAX_REQUESTS = 200  # threads at once; further requests are refused
MAX_PARTS = 200  # parts of one mail
STATE_FOLDER = "/var/lib/goguerrilla/"

STYLE = """:root { color-scheme: light dark; } body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
padding: 0 1rem; } table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .4rem;
border-bottom: 1px solid #8884; overflow-wrap: anywhere; } iframe { width: 100%; height: 70vh; border: 1px solid #8884;
background: #fff; } pre { white-space: pre-wrap; overflow-wrap: anywhere; }"""

# Values of a mail reach the page as text only.
SCRIPT = """
const list = document.getElementById('mails');
const source = new EventSource(list.dataset.live);
source.onmessage = (event) => {
    const mail = JSON.parse(event.data);
    if (document.getElementById('m' + mail.hash)) return;
    const row = list.insertRow(0), link = document.createElement('a');
    row.id = 'm' + mail.hash;
    row.insertCell().textContent = mail.date;
    row.insertCell().textContent = mail.from;
    link.textContent = mail.subject || '(no subject)';
    link.href = '?' + new URLSearchParams({ to: list.dataset.to, hash: mail.hash });
    row.insertCell().append(link);
};
"""


def read_settings():
    path = os.environ.get("GOGUERRILLA_CONFIG", "/etc/goguerrilla/goguerrilla.conf")
    with open(path, encoding="utf-8-sig") as file:
        return json.load(file)


SETTINGS = read_settings()


def setting(key, default=""):
    """Returns the value of a key: from the environment, the configuration file, or the default."""
    value = os.environ.get("GOGUERRILLA_" + key) or SETTINGS.get(key, default)
    return "Y" if value is True else "N" if value is False else str(value)


def password(key):
    file = setting(key + "_FILE")
    if not file:
        return setting(key)
    with open(file, encoding="utf-8") as text:
        return text.read().rstrip("\r\n")


def uses_mysql():
    is_mysql = any(setting(key) for key in ("MYSQL_HOST", "MYSQL_USER", "MYSQL_DB"))
    return setting("GM_STORE", "mysql" if is_mysql else "sqlite") == "mysql"


def sqlite_database():
    file = os.path.join(STATE_FOLDER, setting("GM_SQLITE_FILE", "goguerrilla.db"))
    database = sqlite3.connect(f"file:{urllib.parse.quote(file)}?mode=ro", uri=True, timeout=5)
    database.row_factory = sqlite3.Row
    return database


def mysql_database():
    """Connects to the first MySQL host that answers."""
    import pymysql

    options = {
        "user": setting("MYSQL_USER"),
        "password": password("MYSQL_PASS"),
        "database": setting("MYSQL_DB"),
        "charset": "utf8mb4",
        "autocommit": True,
        "connect_timeout": 5,
        "read_timeout": 30,
        "cursorclass": pymysql.cursors.DictCursor,
    }
    if setting("MYSQL_TLS", "N") in ("Y", "unverified"):
        options["ssl_ca"] = setting("MYSQL_CA") or "/etc/ssl/certs/ca-certificates.crt"
        options["ssl_verify_cert"] = options["ssl_verify_identity"] = setting("MYSQL_TLS") == "Y"
    for host in setting("MYSQL_HOST", "127.0.0.1:3306").split(","):
        host = host.strip()
        if host.startswith("/"):
            place = {"unix_socket": host}
        else:
            name, _, port = host.rpartition(":") if re.search(r":\d+$", host) else (host, "", "3306")
            place = {"host": name.strip("[]"), "port": int(port)}
        try:
            return pymysql.connect(**place, **options)
        except pymysql.err.OperationalError as error:
            last = error
    raise last


def redis_server(read_seconds=3):
    """Connects to Redis; returns None if the server uses none. A Redis Cluster needs redis.cluster instead."""
    address = setting("REDIS_INTERFACE", "127.0.0.1:6379")
    if not address:
        return None
    import redis

    options = {"socket_connect_timeout": 3, "socket_timeout": read_seconds}
    if password("REDIS_PASS"):
        options["password"] = password("REDIS_PASS")
    if setting("REDIS_CA"):
        options["ssl_ca_certs"] = setting("REDIS_CA")
    if address.startswith("/"):
        return redis.Redis(unix_socket_path=address, **options)
    return redis.Redis.from_url(address if "://" in address else "redis://" + address, **options)


class Mails:
    """Reads rows. SQLite and MySQL differ in the driver and the placeholder only."""

    def __init__(self):
        self.mark = "%s" if uses_mysql() else "?"
        self.database = mysql_database() if uses_mysql() else sqlite_database()
        names = setting("GM_MAIL_TABLE", "new_mail").split(".")
        self.table = ".".join(f"`{name}`" for name in names)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.database.close()

    def select(self, rest, parameters):
        with contextlib.closing(self.database.cursor()) as cursor:
            cursor.execute(rest.replace("TABLE", self.table).replace("?", self.mark), parameters)
            return [dict(row) for row in cursor.fetchall()]

    def newest(self, to):
        """Returns the newest rows of a mailbox."""
        columns = "`hash`, `date`, `from`, `to`, `recipient`, `subject`, `has_attach`"
        query = f"SELECT {columns} FROM TABLE WHERE `to` = ? ORDER BY `mail_id` DESC LIMIT {MAILS_IN_LIST}"
        # A collation may treat jorg and jörg as equal.
        return [mail for mail in self.select(query, (to,)) if same_address(mail["to"], to)]

    def by_hash(self, to, hash_):
        """Returns the row of a mail with its octets, or None."""
        rows = self.select("SELECT * FROM TABLE WHERE `hash` = ?", (hash_,))
        if not rows or not same_address(rows[0]["to"], to):
            return None
        mail = rows[0]
        stream = mail["mail"]
        if mail["body"] == "redis":
            redis = redis_server()
            stream = redis.get(hash_) if redis else None
        try:
            mail["content"] = zlib.decompressobj().decompress(stream or b"", MAX_MAIL_OCTETS)
        except zlib.error:
            mail["content"] = b""
        return mail


def same_address(one, other):
    return str(one).lower() == other.lower()


def mailbox(address):
    """Returns what column `to` holds for an address: all domains of the server share one mailbox for each local-part."""
    local = address.rpartition("@")[0] or address
    host = setting("GM_PRIMARY_MAIL_HOST") or setting("GSMTP_HOST_NAME") or socket.gethostname()
    return f"{local}@{host}"


def parts(content):
    """Returns the leaf parts of a mail: media type, name, whether it is text to show, and its text or octets."""
    found = []
    try:
        message = email.message_from_bytes(content, policy=email.policy.compat32)
        for part in message.walk():
            if not part.is_multipart() and len(found) < MAX_PARTS:
                found.append(leaf(part))
    except Exception:  # the parser of Python has errors of many kinds for malformed mail
        found.append(("text/plain", "", True, content.decode("utf-8", "replace")))
    return found


def leaf(part):
    kind = part.get_content_type()
    if kind.startswith("multipart/"):
        kind = "text/plain"  # a malformed multipart is shown as text
    name = str(part.get_filename() or "")
    octets = part.get_payload(decode=True) or b""
    disposition = str(part.get("Content-Disposition", "")).strip().lower()
    is_text = kind in ("text/plain", "text/html") and not name and not disposition.startswith("attachment")
    if not is_text:
        return (kind, name, False, octets)
    charset = str(part.get_content_charset() or "utf-8")
    try:
        return (kind, name, True, octets.decode(charset))
    except (LookupError, ValueError):
        try:
            return (kind, name, True, octets.decode("utf-8"))
        except ValueError:
            return (kind, name, True, octets.decode("windows-1252", "replace"))


def escaped(value):
    return html.escape(str(value if value is not None else ""))


def link_to(**query):
    return escaped("?" + urllib.parse.urlencode(query))


class Inbox(http.server.BaseHTTPRequestHandler):
    timeout = 30
    slots = threading.BoundedSemaphore(MAX_REQUESTS)

    def do_GET(self):
        if not self.slots.acquire(blocking=False):
            self.send_error(503)
            return
        try:
            self.answer()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the browser has left
        except Exception as error:
            # The text may name files and hosts, so visitors do not see it.
            print(f"inbox: {type(error).__name__}: {error}", file=sys.stderr)
            self.send(500, "text/plain; charset=utf-8", "default-src 'none'", b"The mail cannot be read now.")
        finally:
            self.slots.release()

    def answer(self):
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        to, hash_, part = query.get("to", "").strip(), query.get("hash", ""), query.get("part", "")
        if not to or len(to) > 320 or not to.isprintable():
            self.show_start_page()
        elif "live" in query:
            self.send_events(mailbox(to))
        elif not hash_:
            self.show_list(to)
        elif not re.fullmatch("[0-9a-f]{32}", hash_):
            self.show_mail(to, "")
        elif part:
            self.send_part(to, hash_, part)
        else:
            self.show_mail(to, hash_)

    def begin(self, status, kind, policy):
        """Sends the header fields that every answer has."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-DNS-Prefetch-Control", "off")
        self.send_header("Cache-Control", "no-store")

    def send(self, status, kind, policy, octets, disposition=None):
        self.begin(status, kind, policy)
        if disposition:
            self.send_header("Content-Disposition", disposition)
        self.send_header("Content-Length", str(len(octets)))
        self.end_headers()
        self.wfile.write(octets)

    def page(self, title, body, script="", status=200):
        nonce = secrets.token_urlsafe(18)
        policy = (
            f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
            "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        text = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f'<title>{escaped(title)}</title><style nonce="{nonce}">{STYLE}</style><h1>{escaped(title)}</h1>{body}'
            f'<script nonce="{nonce}">{script}</script></html>'
        )
        self.send(status, "text/html; charset=utf-8", policy, text.encode("utf-8", "replace"))

    def show_start_page(self):
        domains = (domain.strip() for domain in setting("GM_ALLOWED_HOSTS", "*").split(","))
        domain = next((domain for domain in domains if domain[:1] not in ("", "*", "@", ".")), mailbox("")[1:])
        address = escaped(f"{secrets.token_hex(5)}@{domain}")
        form = f"<form><input name=to value='{address}' size=40 autofocus> <button>Read</button></form>"
        self.page("Read the mail of an address", form)

    def show_list(self, to):
        rows = ""
        with Mails() as mails:
            for mail in mails.newest(mailbox(to)):
                link = link_to(to=to, hash=mail["hash"])
                rows += (
                    f"<tr id='m{escaped(mail['hash'])}'><td>{escaped(mail['date'])}<td>{escaped(mail['from'])}"
                    f"<td><a href='{link}'>{escaped(mail['subject']) or '(no subject)'}</a>"
                )
        head = "<table><thead><tr><th>Date<th>From<th>Subject"
        body = f"<tbody id=mails data-to='{escaped(to)}' data-live='{link_to(to=to, live=1)}'>{rows}</table>"
        self.page(f"Mail of {to}", f"{head}{body}<p>New mails appear here by themselves.", SCRIPT)

    def show_mail(self, to, hash_):
        with Mails() as mails:
            mail = mails.by_hash(mailbox(to), hash_)
        if mail is None:
            self.page("No such mail", "<p>It was removed, or it is the mail of another address.", status=404)
            return
        columns = (("from", "From"), ("recipient", "To"), ("date", "Date"))
        rows = "".join(f"<tr><th>{name}<td>{escaped(mail[column])}" for column, name in columns)
        body = ""
        for number, (kind, name, is_text, content) in enumerate(parts(mail["content"])):
            link = link_to(to=to, hash=hash_, part=number)
            if is_text and kind == "text/html":
                body += f"<iframe sandbox referrerpolicy=no-referrer src='{link}' title='HTML of the mail'></iframe>"
            elif is_text:
                body += f"<pre>{escaped(content)}</pre>"
            else:
                name = escaped(name) or "attachment"
                body += f"<p>Attachment: <a href='{link}' download>{name}</a>, {len(content)} octets"
        back = f"<p><a href='{link_to(to=to)}'>All mails of {escaped(to)}</a>"
        body = f"<table>{rows}</table>{body or '<p>The content has expired.'}{back}"
        self.page(mail["subject"] or "(no subject)", body)

    def send_part(self, to, hash_, number):
        """Sends HTML for the frame, in which nothing is executed and nothing is loaded, and anything else as a download."""
        with Mails() as mails:
            mail = mails.by_hash(mailbox(to), hash_)
        found = parts(mail["content"]) if mail else []
        if not re.fullmatch("[0-9]{1,4}", number) or int(number) >= len(found):
            self.send(404, "text/plain; charset=utf-8", "default-src 'none'; sandbox", b"no such part")
            return
        kind, name, is_text, content = found[int(number)]
        if is_text and kind == "text/html":
            # `sandbox` also holds if somebody opens the address outside of the frame.
            policy = (
                "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
                "form-action 'none'; frame-ancestors 'self'"
            )
            # These elements could resolve names or go to another page without any script.
            elements = r"<(/?)(link|meta|base|object|embed|iframe|frame|portal)\b"
            content = re.sub(elements, r"<\1x-\2", content, flags=re.IGNORECASE)
            self.send(200, "text/html; charset=utf-8", policy, content.encode("utf-8", "replace"))
            return
        octets = content.encode("utf-8", "replace") if is_text else content
        name = re.sub("[^A-Za-z0-9._-]+", "_", name)[-100:] or "attachment"
        disposition = f'attachment; filename="{name}"'
        self.send(200, "application/octet-stream", "default-src 'none'; sandbox", octets, disposition)

    def send_events(self, to):
        """Sends server-sent events. The feed only says when to look. Mails are read from the table, so none is missed."""
        self.begin(200, "text/event-stream", "default-src 'none'")
        self.send_header("X-Accel-Buffering", "no")
        self.end_headers()
        feed = setting("GM_FEED")
        redis = redis_server(30) if uses_mysql() and feed not in ("", "http") else None
        # The position in the feed comes before the first look at the rows.
        newest = redis.xrevrange(feed, count=1) if redis else []
        position = newest[0][0] if newest else "0-0"
        sent = {}
        until = time.monotonic() + LIVE_SECONDS
        self.wfile.write(b"retry: 1000\n\n")
        with Mails() as mails:
            while time.monotonic() < until:
                for mail in reversed(mails.newest(to)):
                    if sent.setdefault(mail["hash"], False) is False:
                        sent[mail["hash"]] = True
                        self.wfile.write(f"data: {json.dumps(mail, default=str)}\n\n".encode())
                sent = dict(list(sent.items())[-2 * MAILS_IN_LIST :])
                self.wfile.write(b":\n\n")  # a comment, whose error says that the browser has left
                self.wfile.flush()
                if redis:
                    position = wait_for_feed(redis, feed, to, position, until)
                else:
                    time.sleep(POLL_SECONDS)


def wait_for_feed(redis, feed, to, position, until):
    """Waits for an entry for this mailbox, at most five seconds, and returns the new position in the feed."""
    end = min(until, time.monotonic() + 5)
    while (left := end - time.monotonic()) > 0:
        for _, entries in redis.xread({feed: position}, count=1000, block=max(1, int(left * 1000))):
            for position, entry in entries:
                if same_address(entry.get(b"to", b"").decode("utf-8", "replace"), to):
                    end = 0
    return position


def main():
    host, _, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8080").rpartition(":")
    server = http.server.ThreadingHTTPServer((host, int(port)), Inbox)
    server.serve_forever()


if __name__ == "__main__":
    main()
