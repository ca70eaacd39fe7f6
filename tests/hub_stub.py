"""A stand-in for the Hugging Face hub on loopback: what the real client asks for when a folder is uploaded.

Keeps what it is given: `tags` (name to commit), `files` by repository. `public` names repositories that
everybody sees. `refuse` makes one route answer with an error.
"""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "stubtoken" * 4


class HubStub(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.public: set[str] = set()
        self.tags: dict[str, dict[str, str]] = {}
        self.commits = 0
        self.blobs: dict[str, bytes] = {}
        self.refuse: tuple[str, int, str] | None = None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: HubStub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def _answer(self, tree: Any, status: int = 200) -> None:
        body = json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_PUT(self) -> None:
        self.server.blobs[self.path.rsplit("/", 1)[-1]] = self._body()
        self._answer({})

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/"):
            owner, name = path.removeprefix("/api/models/").split("/")[:2]
            kept = self.server.files.get(f"{owner}/{name}", {})
            if path.endswith("/refs"):
                tags = self.server.tags.get(f"{owner}/{name}", {}).items()
                listed = [
                    {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": commit} for tag, commit in tags
                ]
                return self._answer({"branches": [], "converts": [], "tags": listed})
            if "/tree/" in path:
                return self._answer(
                    [{"type": "file", "path": p, "size": len(b), "oid": "0"} for p, b in kept.items()]
                )
            facts = {
                "private": f"{owner}/{name}" not in self.server.public,
                "siblings": [{"rfilename": p} for p in kept],
            }
            return self._answer({"id": f"{owner}/{name}", "sha": "0" * 40, **facts})
        self._answer({"error": f"no route {self.path}"}, 404)

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": "Invalid credentials"}, 401)
        refuse = self.server.refuse
        if refuse and refuse[0] in self.path:
            return self._answer({"error": refuse[2]}, refuse[1])
        parts = self.path.split("?")[0].strip("/").split("/")
        repository = "/".join(parts[2:4])
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = (
                f"{wanted['organization']}/{wanted['name']}"
                if wanted.get("organization")
                else f"me/{wanted['name']}"
            )
            assert wanted.get("private") or wanted.get("visibility") == "private", wanted
            self.server.files.setdefault(name, {})
            return self._answer({"url": f"{self.server.url}/{name}", "name": name})
        if self.path == "/api/validate-yaml":
            assert json.loads(body)["content"].startswith("---")
            return self._answer({"warnings": [], "errors": []})
        if "preupload" in parts:
            asked = json.loads(body)["files"]
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for f in asked
            ]
            return self._answer({"files": modes})
        if self.path.endswith("/info/lfs/objects/batch"):
            return self._answer(
                {"transfer": "basic", "objects": [self._upload(o) for o in json.loads(body)["objects"]]}
            )
        if "commit" in parts:
            self._commit(repository, body)
            self.server.commits += 1
            commit = str(self.server.commits) * 40
            address = f"{self.server.url}/{repository}/commit/{commit}"
            return self._answer(
                {"commitUrl": address, "commitOid": commit, "pullRequestUrl": None, "success": True}
            )
        if "tag" in parts:
            tags, wanted = self.server.tags.setdefault(repository, {}), json.loads(body)["tag"]
            if wanted in tags:
                return self._answer({"error": "Tag already exists"}, 409)
            tags[wanted] = parts[-1]
            return self._answer({})
        self._answer({"error": f"no route {self.path}"}, 404)

    def do_DELETE(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        self.server.tags["/".join(parts[2:4])].pop(parts[-1])
        self._answer({})

    def _upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return {
            **wanted,
            "actions": {"upload": {"href": f"{self.server.url}/blob/{wanted['oid']}", "header": {}}},
        }

    def _commit(self, repository: str, body: bytes) -> None:
        kept = self.server.files[repository]
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                kept[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                kept[value["path"]] = self.server.blobs[value["oid"]]
            elif entry["key"] == "deletedFile":
                kept.pop(value["path"])
