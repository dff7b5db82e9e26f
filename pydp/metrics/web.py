# SPDX-License-Identifier: Apache-2.0
"""HTTP and HTTPS: /metrics, on a socket that somebody else bound."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, make_wsgi_app

from pydp.metrics.guard import Application, Guard
from pydp.metrics.page import Page
from pydp.metrics.tls import is_welcome

_AT_ONCE = 16  # connections served; more are closed at once
_PATIENCE = 10.0  # seconds in which a client must say what it wants
_TEXT = [("Content-Type", "text/plain; charset=utf-8")]


def application(page: Page) -> Application:
    """The WSGI application: /metrics, and a hint at /. Who takes nothing but OpenMetrics, or asks for some names only,
    is served by prometheus_client.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(page)
    # gzip would take longer than the whole page does; it goes over loopback.
    metrics = make_wsgi_app(registry, disable_compression=True)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics" and environ["REQUEST_METHOD"] == "GET" and _wants_text(environ):
            start_response("200 OK", [("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)])
            return [page.text()]
        if path == "/metrics":
            found: Iterable[bytes] = metrics(environ, start_response)
            return found
        start_response("200 OK" if path == "/" else "404 Not Found", _TEXT)
        return [b"pydp exporter: see /metrics\n"]

    return answer


def _wants_text(environ: dict[str, Any]) -> bool:
    accept = environ.get("HTTP_ACCEPT") or "*/*"
    return not environ.get("QUERY_STRING") and any(kind in accept for kind in ("text/plain", "text/*", "*/*"))


def rehearse(answer: Application) -> None:
    """Make the page in each format once, so that all modules are loaded while we may still read their files."""
    for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "QUERY_STRING": "", "HTTP_ACCEPT": accept}
        b"".join(answer(environ, lambda *_: None))


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the library's
        """A line per scrape tells nobody anything."""


class Server(ThreadingMixIn, WSGIServer):
    """Serves ANSWER on LISTENER, which it owns, to those that GUARD lets in."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, answer: Application, guard: Guard) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_address = listener.getsockname()
        # What server_bind() would look up in the DNS.
        self.server_name, self.server_port = listener.getsockname()[:2]
        self.setup_environ()
        self.set_app(guard.guarded(answer))
        self._guard = guard
        self._room = threading.BoundedSemaphore(_AT_ONCE)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            if secured := self._secured(request):
                super().process_request_thread(secured, client_address)
        finally:
            self._room.release()

    def _secured(self, request: Any) -> Any:
        """The connection with TLS, if that is configured; None when the client cannot, or may not. Here, in the thread
        of the connection: a client that takes its time keeps nobody else waiting.
        """
        access, connection = self._guard.access(), request
        if access.context is None or access.config.tls is None:
            return request
        try:
            request.settimeout(_PATIENCE)
            connection = access.context.wrap_socket(request, server_side=True)
            if is_welcome(access.config.tls, connection):
                return connection
        except OSError:  # ssl.SSLError is one
            pass
        self.shutdown_request(connection)
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is no event."""
