"""The clouds' notices that a spot machine is taken back, asked of a metadata server as theirs are documented."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from cluster.ray.notice import wait_for_notice

QUIET = 3
"""Questions before there is something to tell; the first one is not answered at all."""


class Metadata(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def answer(self, code, text=""):
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self):
        right = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.answer(200, "secret") if right else self.answer(400)

    def do_GET(self):
        self.asked.append(self.path)
        early = len(self.asked) <= QUIET
        if len(self.asked) == 1:
            self.answer(503)
        elif self.path == "/latest/meta-data/spot/instance-action":
            if self.headers["X-aws-ec2-metadata-token"] != "secret":
                self.answer(401)
            else:
                self.answer(404) if early else self.answer(200, '{"action": "terminate", "time": "2026-01-01T00:00:00Z"}')
        elif self.path == "/computeMetadata/v1/instance/preempted" and self.headers["Metadata-Flavor"] == "Google":
            self.answer(200, "FALSE" if early else "TRUE")
        else:
            self.answer(403)

    def log_message(self, *words):
        pass


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_notice_is_heard_and_nothing_else_is_taken_for_one(cloud, capsys):
    Metadata.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    heard = threading.Thread(
        target=wait_for_notice, args=(cloud, f"http://127.0.0.1:{server.server_port}", 0.02), daemon=True
    )
    heard.start()
    heard.join(20)
    assert not heard.is_alive()
    assert len(Metadata.asked) == QUIET + 1
    assert capsys.readouterr().out.count("no answer") == 1
    server.shutdown()
