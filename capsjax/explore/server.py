"""What is served to whom: the page and its events, on one address, and no file of the disk."""

import errno
import os
import re
import socket
from collections.abc import Callable, Iterable

from capsjax.explore.encoding import MOST_BYTES

# Requests that are answered. All others are refused, such as those by which Gradio serves, takes or
# fetches files.
READ = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt"
    r"|/(assets|static)/[\w./-]+"
    r"|/gradio_api/(info/?|startup-events|heartbeat/\w+|queue/data)"
)
WRITTEN = re.compile(r"/gradio_api/(run/\w+|queue/join|reset)/?")
# A picture in a data URI, and what is around it.
MOST_OF_REQUEST = 2 * MOST_BYTES
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Nothing comes from elsewhere, whatever the page asks for.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


def keep_to_this_machine() -> None:
    """Tell Gradio, before it is imported, to send nothing and to fetch nothing."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"


class Guard:
    """An ASGI application in front of another one: lets through what the page needs.

    Attributes:
      app: the application.
      hosts: names by which a browser may call this server; empty for any. Where a page on the
        internet has its own name lead to this machine, the name that arrives is that one.
    """

    def __init__(self, app: Callable, hosts: Iterable[str]):
        self.app, self.hosts = app, frozenset(hosts)

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        status = self.refusal(scope)
        if status:
            headers = [(b"content-type", b"text/plain"), *HEADERS]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"capsjax explore: refused\n"})
            return

        async def send_with_headers(message: dict) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *HEADERS]}
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def refusal(self, scope: dict) -> int:
        """Return the status with which a request is refused; 0 for one that is not."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if self.hosts and _name_of(host) not in self.hosts:
            return 403
        if headers.get(b"origin", f"http://{host}") != f"http://{host}":
            return 403  # a page of another server
        path, method = scope["path"], scope["method"]
        if ".." in path:
            return 404
        if method in ("GET", "HEAD"):
            return 0 if READ.fullmatch(path) else 404
        if method != "POST" or not WRITTEN.fullmatch(path):
            return 404
        length = headers.get(b"content-length", "")
        return 0 if length.isdigit() and int(length) <= MOST_OF_REQUEST else 413


def _name_of(host: str) -> str:
    """Return the name in a header `Host`, without the port.

    >>> _name_of("127.0.0.1:7860"), _name_of("[::1]:7860"), _name_of("localhost")
    ('127.0.0.1', '::1', 'localhost')
    """
    return re.sub(r":\d*$", "", host).strip("[]") if host.count(":") != 1 else host.split(":")[0]


def hosts_of(host: str) -> tuple[str, ...]:
    """Return the names by which a server on an address may be called; none for any."""
    return LOOPBACK if host in LOOPBACK else ()


def bind(host: str, port: int) -> socket.socket:
    """Take an address, on which nothing is answered yet.

    Args:
      host: address or name of this machine.
      port: 0 for any that is free.

    Raises:
      ValueError: if it cannot be had; the message names the remedy.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"--port is between 0 and 65535, not {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        what = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            remedy = "--host is an address of this machine; leave it out to serve this one alone"
        else:
            remedy = "give another --port, or --port=0 for one that is free"
        raise ValueError(f"cannot serve on {host}, port {port} ({what}): {remedy}") from None


def url_of(bound: socket.socket) -> str:
    """Return the URL of the page on an address."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
