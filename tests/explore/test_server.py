"""What the server of the page lets through, and which addresses it takes."""

import asyncio
import socket

import pytest

from capsjax.explore import server
from capsjax.explore.server import Guard, bind, hosts_of, url_of


def ask(path="/", method="GET", hosts=server.LOOPBACK, kind="http", **headers):
    """Send a request through the guard: its status, headers, and whether it came through."""
    came, sent = [], []

    async def app(scope, receive, send):
        came.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    given = {"host": "127.0.0.1:7860", **headers}
    scope = {
        "type": kind,
        "path": path,
        "method": method,
        "headers": [(name.replace("_", "-").encode(), x.encode()) for name, x in given.items()],
    }
    asyncio.run(Guard(app, hosts)(scope, None, send))
    return sent[0].get("status"), dict(sent[0].get("headers", ())), bool(came)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/config",
        "/theme.css",
        "/assets/index-a1.js",
        "/static/img/logo.svg",
        "/gradio_api/heartbeat/abc",
        "/gradio_api/queue/data",
    ],
)
def test_the_page_and_its_parts_are_served(path):
    status, headers, came = ask(path)
    assert (status, came) == (200, True)
    assert b"default-src 'self'" in headers[b"content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1/",
        "/assets/../../../../etc/passwd",
        "/static/../routes.py",
        "/gradio_api/upload_progress",
        "/gradio_api/run/predict",  # only by POST
        "/docs",
        "/monitoring",
        "//etc/passwd",
    ],
)
def test_files_and_all_else_are_refused(path):
    status, headers, came = ask(path)
    assert (status, came) == (404, False)
    assert b"content-security-policy" in headers


def test_events_are_taken_up_to_a_size_and_uploads_are_not():
    run = "/gradio_api/run/predict"
    assert ask(run, "POST", content_length="100")[0] == 200
    assert ask(run, "POST", content_length=str(server.MOST_OF_REQUEST + 1))[0] == 413
    assert ask(run, "POST")[0] == 413  # of a size that nobody knows
    assert ask("/gradio_api/upload", "POST", content_length="100")[0] == 404
    assert ask("/gradio_api/component_server", "POST", content_length="100")[0] == 404
    assert ask("/", "DELETE")[0] == 404


def test_only_the_page_itself_may_ask():
    run = "/gradio_api/run/predict"
    own = {"content_length": "100", "origin": "http://127.0.0.1:7860"}
    assert ask(run, "POST", **own)[0] == 200
    assert ask(run, "POST", **{**own, "origin": "http://example.org"})[0] == 403
    # A name of the internet that leads to this machine.
    assert ask("/", host="example.org:7860")[0] == 403
    assert ask("/", host="localhost:7860")[0] == 200
    assert ask("/", host="192.168.0.2:7860", hosts=hosts_of("0.0.0.0"))[0] == 200


def test_web_sockets_are_closed():
    assert ask(kind="websocket")[2] is False


def test_a_busy_port_is_answered_in_a_line():
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert url_of(bound) == f"http://127.0.0.1:{port}"
        with pytest.raises(ValueError, match=f"port {port} .*: give another --port, or --port=0"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_there_is_not_is_named(port):
    with pytest.raises(ValueError, match=f"--port is between 0 and 65535, not {port}"):
        bind("127.0.0.1", port)


def test_a_host_that_is_not_here_is_named(monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    remedy = "--host is an address of this machine"
    message = rf"cannot serve on nowhere, port 80 .*Name or service.*: {remedy}"
    with pytest.raises(ValueError, match=message):
        bind("nowhere", 80)
