"""A model hub of this machine, for tests: as much of its protocol as making, filling and reading a repository takes.

It says of every file that it travels inside the commit. The real one takes large files by another way (xet), which is
huggingface_hub's affair and not tested here.
"""

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Hub:
    """files: of the one commit of each repository. private: whether each is. tokens, asked_for: of every request."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.tokens: list[str | None] = []
        self.asked_for: list[str] = []
        self.url = ""

    def sha(self, name: str) -> str:
        return hashlib.sha1(repr(sorted(self.files[name].items())).encode()).hexdigest()


@contextlib.contextmanager
def serving(monkeypatch, cache) -> Iterator[Hub]:
    """Inside, huggingface_hub talks to this hub and keeps what it downloads in `cache`."""
    from huggingface_hub import constants

    hub = Hub()

    class Bound(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._note()
        if self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.match(r"/api/models/([\w.-]+/[\w.-]+)/(preupload|commit)/main", self.path):
            name, what = match.groups()
            (self._preupload if what == "preupload" else self._commit)(name, body)
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        else:
            self._answer({"error": f"no {self.path}"}, 404)

    def do_GET(self) -> None:
        self._note()
        for pattern, method in (
            (r"/api/models/([\w.-]+/[\w.-]+)/tree/[^/?]+", self._tree),
            (r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/(\w+))?(?:\?.*)?$", self._info),
            (r"/([\w.-]+/[\w.-]+)/resolve/\w+/([\w.-]+)", self._file),
        ):
            if (match := re.match(pattern, self.path)) and match[1] in self.state.files:
                method(*match.groups())
                return
        self._missing("RepoNotFound")

    do_HEAD = do_GET

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        there = name in self.state.files
        self.state.files.setdefault(name, {})
        self.state.private.setdefault(name, asked.get("visibility") == "private" or bool(asked.get("private")))
        self._answer({"url": f"{self.state.url}/{name}"}, 409 if there else 200)

    def _preupload(self, name: str, body: bytes) -> None:
        files = [
            {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
        ]
        self._answer({"files": files})

    def _commit(self, name: str, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                assert line["value"]["encoding"] == "base64"
                self.state.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        sha = self.state.sha(name)
        self._answer({"success": True, "commitOid": sha, "commitUrl": f"{self.state.url}/{name}/commit/{sha}"})

    def _info(self, name: str, revision: str | None) -> None:
        sha = self.state.sha(name)
        if revision not in (None, "main", sha):
            self._missing("RevisionNotFound")
            return
        files = [{"rfilename": path} for path in self.state.files[name]]
        facts = {"private": self.state.private[name], "sha": sha, "siblings": files, "tags": [], "downloads": 0, "likes": 0}
        self._answer({"_id": "0" * 24, "id": name, "modelId": name, **facts})

    def _tree(self, name: str) -> None:
        files = self.state.files[name].items()
        self._answer([{"type": "file", "path": path, "size": len(data), "oid": _oid(data)} for path, data in files])

    def _file(self, name: str, path: str) -> None:
        if path not in self.state.files[name]:
            self._missing("EntryNotFound")
            return
        data = self.state.files[name][path]
        self._send(200, data, {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": self.state.sha(name)})

    def _missing(self, code: str) -> None:
        self._send(404, b'{"error": "not found"}', {"X-Error-Code": code})

    def _answer(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _note(self) -> None:
        self.state.asked_for.append(self.path)
        self.state.tokens.append(self.headers.get("Authorization"))

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


def _oid(data: bytes) -> str:
    """As git names a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
