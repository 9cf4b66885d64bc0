"""A web server with one video under every path, which it sends one after another with a pause.

A client that extracts these videos runs for as long as a test needs, and works all the time. There
is no pause once the file `go` exists in the working folder. Runs in the toolbox:

    python paced_site.py PORT SECONDS VIDEO
"""

from __future__ import annotations

import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

GO = Path("go")


class _Handler(SimpleHTTPRequestHandler):
    turn = threading.Lock()
    pause_s = 0.0
    video = ""

    def do_GET(self) -> None:
        with self.turn:
            if not GO.exists():
                time.sleep(self.pause_s)
        super().do_GET()

    def translate_path(self, path: str) -> str:
        return self.video

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    _Handler.pause_s, _Handler.video = float(sys.argv[2]), sys.argv[3]
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()
