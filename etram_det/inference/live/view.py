"""A page for the browser that shows a live run: picture, boxes, rates and counts."""

from __future__ import annotations

import base64
import errno
import json
import socket
import threading
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from ipaddress import ip_address
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import urlsplit

import cv2

from etram_det.drawing.frames import Image
from etram_det.errors import UserError

_PAGE = "view.html"
_QUALITY = 85  # of the pictures, of 100
_STALLED_S = 10  # after which a browser that takes nothing is left alone
_WAIT_S = 1.0  # between two signs of life while there is nothing new
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'"
)


class LiveView:
    """Serves the page. What is shown is painted and packed only while a browser looks at it.

    Args:
        host: address to listen at.
        port: port to listen at; 0 for any that is free.

    Attributes:
        address: of the page.

    Raises:
        UserError: the address cannot be had.
    """

    def __init__(self, host: str, port: int) -> None:
        try:
            self._server = _Server((host, port), partial(_Handler, self))
        except (OSError, OverflowError) as error:
            code = getattr(error, "errno", None)
            setting, remedy = "host", "use one of this machine, such as 127.0.0.1"
            if not isinstance(error, OSError) or code in (errno.EADDRINUSE, errno.EACCES):
                setting, remedy = "port", "choose another, or 0 for any that is free"
            raise UserError(
                f"{setting}: must be free to listen at, got {host} and {port} "
                f"({getattr(error, 'strerror', None) or error}): {remedy}"
            ) from error
        self.port = self._server.server_address[1]
        self.address = f"http://{host if ':' not in host else f'[{host}]'}:{self.port}/"
        self.is_loopback = _is_loopback(host)
        self._changed = threading.Condition()
        self._number, self._has_ended = 0, False
        self._make: Callable[[], tuple[Image, dict[str, Any]]] | None = None
        self._packed: tuple[int, bytes] = (0, b"")
        self._packing = threading.Lock()
        threading.Thread(target=self._server.serve_forever, name="view", daemon=True).start()

    def show(self, make: Callable[[], tuple[Image, dict[str, Any]]]) -> None:
        """Show something new.

        Args:
            make: gives the picture, RGB ``[H, W, 3]``, and what the page says beside it; called
                when a browser wants it, by another thread.
        """
        with self._changed:
            self._make, self._number = make, self._number + 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let the browsers know that it has ended, and serve no more."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def newer_than(self, number: int) -> tuple[int, bytes | None]:
        """What is shown now, as soon as it is another than this.

        Returns:
            Its number, and the message for a browser: empty where nothing new came for a while,
            None at the end.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended or self._number > number, _WAIT_S)
            if self._has_ended:
                return number, None
            newest, make = self._number, self._make
        if newest == number or make is None:
            return number, b""
        with self._packing:  # once for all browsers
            if self._packed[0] < newest:
                self._packed = newest, _packed(*make())
            return self._packed

    def allows(self, host: str | None) -> bool:
        """Whether a request was meant for this page, not for a name that only leads here.

        Its port does not matter: 80 is left out by browsers, and a forwarded one is another.
        """
        try:
            name = urlsplit(f"//{host or ''}").hostname or ""
        except ValueError:  # no address
            name = ""
        return not self.is_loopback or _is_loopback(name)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def _packed(image: Image, said: dict[str, Any]) -> bytes:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    picture = base64.b64encode(jpeg.tobytes()).decode()
    return f"data: {json.dumps(said | {'picture': picture})}\n\n".encode()


class _Server(ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True

    def __init__(self, address: tuple[str, int], handler: Callable[..., _Handler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser that went away is no fault of the run."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _STALLED_S

    def __init__(self, view: LiveView, *args: Any) -> None:
        self._view = view
        super().__init__(*args)

    def do_GET(self) -> None:
        """Answer one request of a browser."""
        if not self._view.allows(self.headers.get("Host")):
            self.send_error(HTTPStatus.FORBIDDEN)
        elif self.path == "/":
            page = files("etram_det.inference.live").joinpath(_PAGE).read_bytes()
            self._start("text/html; charset=utf-8", {"Content-Length": str(len(page))})
            self.wfile.write(page)
        elif self.path == "/windows":
            self._start("text/event-stream", {})
            number = 0
            while True:
                number, message = self._view.newer_than(number)
                self.wfile.write(
                    b"event: end\ndata:\n\n" if message is None else message or b":\n\n"
                )
                if message is None:
                    return
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _start(self, kind: str, headers: dict[str, str]) -> None:
        self.send_response(HTTPStatus.OK)
        for name, value in {
            "Content-Type": kind,
            "Cache-Control": "no-store",
            "Content-Security-Policy": _POLICY,
            "X-Content-Type-Options": "nosniff",
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of requests."""
