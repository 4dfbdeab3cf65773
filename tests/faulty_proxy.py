"""A server in front of an object store that now and then fails as those of clouds do."""

import http.client
import http.server
import threading
from urllib.parse import unquote

from tests.object_store import ObjectStore


class FaultyProxy:
    """faults: what becomes of the next requests for objects that end in `ending`, in order: "503" (slow down), "drop" (half
    of the answer, then nothing), "hang up" (no answer), "flip" (a byte of the answer is another one), "" (nothing).

    served: names of the objects that were asked for.
    """

    def __init__(self, store: ObjectStore, ending: str = ".arrow") -> None:
        self.faults: list[str] = []
        self.served: list[str] = []
        proxy, self._lock = self, threading.Lock()
        self._store = store

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                upstream = http.client.HTTPConnection("127.0.0.1", store.port)
                upstream.request(self.command, self.path, body, dict(self.headers))
                answer = upstream.getresponse()
                content = answer.read()
                upstream.close()
                self.answer(answer, content, proxy.fault_of(self.command, self.path.partition("?")[0], ending))

            def answer(self, answer, content: bytes, fault: str) -> None:
                if fault == "hang up":
                    self.close_connection = True
                    return
                if fault == "503":
                    content = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
                    self.send_response(503)
                    headers = [("Content-Type", "application/xml")]
                else:
                    self.send_response(answer.status)
                    headers = [pair for pair in answer.getheaders() if pair[0].lower() not in LEFT_OUT]
                if fault == "flip":
                    content = content[:40] + bytes([content[40] ^ 1]) + content[41:]
                length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else len(content)
                for name, value in [*headers, ("Content-Length", length)]:
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content[: len(content) // 2] if fault == "drop" else content)
                self.close_connection = self.close_connection or fault == "drop"

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

            def log_message(self, *arguments) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def fault_of(self, command: str, path: str, ending: str) -> str:
        if command != "GET" or not path.endswith(ending):
            return ""
        with self._lock:
            self.served.append(unquote(path).rsplit("/", 1)[-1])
            return self.faults.pop(0) if self.faults else ""

    def address(self, folder: str) -> str:
        return self._store.address(folder, self.port)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


LEFT_OUT = ("content-length", "transfer-encoding", "connection", "x-amz-checksum-crc32", "x-amz-checksum-crc64nvme", "date")
"""Headers that are not passed on: a checksum would tell of the flipped byte before we do."""
