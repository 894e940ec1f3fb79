"""The page's server: what browsers get, and what becomes of those that go away."""

import base64
import json
import socket
import threading
import time
import urllib.error
import urllib.request

import cv2
import numpy as np
import pytest

from etram_det.errors import UserError
from etram_det.inference.live.view import LiveView

BLUE = np.full((48, 64, 3), (62, 130, 196), np.uint8)


@pytest.fixture
def view():
    view = LiveView("127.0.0.1", 0)
    yield view
    view.close()


def messages(response):
    """Kind and content of each message of a stream."""
    kind = "message"
    for line in response:
        if line.startswith(b"event: "):
            kind = line[7:].decode().strip()
        elif line.startswith(b"data:"):
            yield kind, line[5:].decode().strip()
            kind = "message"


def test_the_page_and_its_windows(view):
    with urllib.request.urlopen(view.address) as page:
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert b'new EventSource("windows")' in page.read()
    view.show(lambda: (BLUE, {"t": 1}))
    with urllib.request.urlopen(view.address + "windows") as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        found = messages(stream)
        kind, first = next(found)
        picture = np.frombuffer(base64.b64decode(json.loads(first).pop("picture")), np.uint8)
        image = cv2.cvtColor(cv2.imdecode(picture, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        assert image.shape == BLUE.shape
        assert np.abs(image.astype(int) - BLUE).max() <= 4
        assert (kind, json.loads(first)["t"]) == ("message", 1)
        view.show(lambda: (BLUE, {"t": 2}))
        assert json.loads(next(found)[1])["t"] == 2
        threading.Thread(target=view.close).start()
        assert next(found) == ("end", "")
        assert next(found, None) is None


def test_nothing_is_painted_where_nobody_looks(view):
    made = []
    for number in range(100):
        view.show(lambda number=number: made.append(number) or (BLUE, {"t": number}))
    assert made == []
    streams = [urllib.request.urlopen(view.address + "windows") for _ in range(3)]
    assert [json.loads(next(messages(stream))[1])["t"] for stream in streams] == [99] * 3
    assert made == [99]
    for stream in streams:
        stream.close()


@pytest.mark.parametrize("path", ["", "windows"])
def test_another_name_that_leads_here_gets_nothing(path, view):
    request = urllib.request.Request(view.address + path, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)
    own = urllib.request.Request(view.address, headers={"Host": f"localhost:{view.port}"})
    with urllib.request.urlopen(own) as page:
        assert page.status == 200
    # Browsers leave port 80 out, and a forwarded port is another.
    assert all(map(view.allows, ("127.0.0.1", "localhost", "LOCALHOST:9000", "[::1]:8321")))
    others = (None, "", "evil.example:8321", "127.0.0.1.evil.example", "localhost@evil.example")
    assert not any(map(view.allows, (*others, "10.0.0.1", "[::1", "0.0.0.0:8321")))
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(view.address + "../view.html")


def test_browsers_that_go_away_leave_no_thread_and_no_line(view, capfd):
    before = threading.active_count()
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", view.port)) as browser:
            host = f"127.0.0.1:{view.port}"
            browser.sendall(f"GET /windows HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            browser.recv(10)
            browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    deadline_s = time.monotonic() + 60
    number = 0
    while threading.active_count() > before and time.monotonic() < deadline_s:
        number += 1
        view.show(lambda: (BLUE, {"t": 0}))
        time.sleep(0.02)
    assert threading.active_count() == before
    assert capfd.readouterr() == ("", "")


def test_addresses_that_cannot_be_had(view):
    with pytest.raises(UserError, match=rf"^port: must be free to listen at, got .*{view.port} "):
        LiveView("127.0.0.1", view.port)
    with pytest.raises(UserError, match="^port: must be free .*, got 127.0.0.1 and 70000"):
        LiveView("127.0.0.1", 70000)
    with pytest.raises(UserError, match="^host: must be free to listen at, got 203.0.113.7 and 0 "):
        LiveView("203.0.113.7", 0)


def test_only_loopback_is_heard_unless_asked_for(view):
    assert view.is_loopback
    assert view._server.server_address[0] == "127.0.0.1"
    other = LiveView("127.0.0.2", 0)
    assert other.is_loopback
    assert not other.allows("evil.example")
    other.close()
    everywhere = LiveView("0.0.0.0", 0)
    assert not everywhere.is_loopback
    assert everywhere.allows("camera.example:80")
    everywhere.close()
