"""A web server of a few files, on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Files(BaseHTTPRequestHandler):
    """Answers without a line on standard error, also where nobody waits for the rest."""

    def log_message(self, *args: object) -> None:
        """No line."""

    def handle(self) -> None:
        with suppress(OSError):  # the other end has gone
            super().handle()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        """To a request for ``self.path``."""
        raise NotImplementedError


@contextmanager
def serving(files: type[Files]) -> Iterator[str]:
    """The server's address, while the block runs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()  # seconds until it can end
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
