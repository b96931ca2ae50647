"""A stand-in for the hub of models on this machine: the few requests that pushing and loading a model consist of."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0" * 40


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """Serve a hub that keeps repository "name/model" in `folder`/name/model, and yield its address."""

    class Handler(_Handler):
        root = folder

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    root: Path
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        if path.startswith("api/models/"):
            name, tree, _ = path.removeprefix("api/models/").partition("/revision/")[0].partition("/tree/")
            repository = self.root / name
            if not repository.is_dir():
                return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            if tree:
                entries = [(file.name, file.read_bytes()) for file in sorted(repository.iterdir())]
                return self._answer(
                    200,
                    [
                        {"type": "file", "path": path, "size": len(content), "oid": _hash(content)}
                        for path, content in entries
                    ],
                )
            files = [{"rfilename": file.name} for file in sorted(repository.iterdir())]
            return self._answer(200, {"id": name, "sha": COMMIT, "siblings": files, "tags": [], "private": False})
        name, _, rest = path.partition("/resolve/")
        file = self.root / name / rest.partition("/")[2]
        if not file.is_file():
            return self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        content = file.read_bytes()
        headers = {"ETag": f'"{_hash(content)}"', "X-Repo-Commit": COMMIT}
        return self._answer(200, content, headers)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0].strip("/")
        if path == "api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            (self.root / name).mkdir(parents=True, exist_ok=True)
            return self._answer(200, {"url": f"http://{self.headers['Host']}/{name}", "name": name})
        if path == "api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        name = path.removeprefix("api/models/").partition("/preupload/")[0].partition("/commit/")[0]
        if "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                (self.root / name / entry["value"]["path"]).write_bytes(base64.b64decode(entry["value"]["content"]))
        url = f"http://{self.headers['Host']}/{name}/commit/{COMMIT}"
        return self._answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _hash(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
