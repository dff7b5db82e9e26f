# SPDX-License-Identifier: Apache-2.0
"""A server for stories: tells over HTTP who answers and whom it sees.

python3 -m pydp.lab.stories.answer NAME PORT
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Answer(BaseHTTPRequestHandler):
    name = ""

    def do_GET(self) -> None:
        """Answer with one line."""
        line = f"{self.name} sees {self.client_address[0]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(line)))
        self.end_headers()
        self.wfile.write(line)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def main(name: str, port: int) -> None:
    """Serve until killed."""
    _Answer.name = name
    with ThreadingHTTPServer(("0.0.0.0", port), _Answer) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
