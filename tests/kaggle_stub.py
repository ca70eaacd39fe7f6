"""A Kaggle of our own on loopback, which the real client talks to (routes: kaggle 2.2.4 and 2.2.5, tried in
November 2026).

`Stub` serves one competition from memory; its attributes are the knobs of a test. `environment` is what a
process needs to
reach it and nothing else: KAGGLE_API_ENVIRONMENT=LOCALHOST sends the client to http://localhost, http_proxy
brings that here, https_proxy leads nowhere, so that a slip cannot reach the real site, and home and
configuration are private.
"""

import email.utils
import hashlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "KGAT_stub0123456789abcdef"
"""The good token. No test's output, file or error may hold it."""
EXPIRED = "KGAT_expired987654321fedc"
KEY = "stubkey0123456789abcdef0123456789"
SIGNATURE = "X-Goog-Signature=c0ffee5ecret5ignature"
SECRETS = (TOKEN, EXPIRED, KEY, SIGNATURE)
COMPETITION = "predicting-stock-trends-rise-or-fall"
DATED = time.time() - 86400


class Stub(ThreadingHTTPServer):
    """One competition. `requests` holds what was asked: route (or PUT, GET) and Range."""

    daemon_threads = True
    request_queue_size = 32

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str]] = []
        self.errors: dict[str, tuple[int, str | None]] = {}
        """Route -> status and message; "*" for all but the token check. The message None: a body that is no
        JSON.
        """
        self.silent: set[str] = set()
        """Routes (and "PUT", "GET") that never answer."""
        self.files: dict[str, bytes] = {}
        self.listed: dict[str, int] = {}
        """Sizes that the list states, where they differ from the truth."""
        self.archive = b""
        self.cut_after: list[int] = []
        """Bytes after which each coming download breaks off; then they complete."""
        self.slow = 0.0
        """Seconds between the pieces of a download."""
        self.sent_bytes = 0
        self.upload_status = 200
        self.cut_uploads = 0
        """How many uploads break off after some bytes."""
        self.names: dict[str, str] = {}
        self.uploads: dict[str, bytes] = {}
        self.submissions: list[dict[str, Any]] = []
        self.pending_polls = 1
        """How often a new submission is listed as pending before it has its score."""
        self.score = "0.51340"
        self.fails_with = ""
        self.lose_answer = ""
        """CreateSubmission takes the submission, and its answer never comes: "break" or "hang"."""
        self.pause = 0.0
        """Seconds that an upload takes, and that CreateSubmission takes before the submission is there."""
        self.allowed = 5
        self.open = threading.Event()

    def serve(self, **files: bytes) -> None:
        """The competition's files, by name with __ for a dot; the archive is made of them."""
        self.files = {name.replace("__", "."): content for name, content in files.items()}
        self.archive = zipped(self.files)

    def asked(self, route: str) -> int:
        return sum(name == route for name, _ in self.requests)

    def environment(self, home: Path, token: str | None = TOKEN, **more: str) -> dict[str, str]:
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith("KAGGLE") and not k.lower().endswith("_proxy")
        }
        own = {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "KAGGLE_CONFIG_DIR": str(home / "kaggle"),
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "http_proxy": f"http://127.0.0.1:{self.server_port}",
            "https_proxy": "http://127.0.0.1:1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        }
        return kept | own | ({"KAGGLE_API_TOKEN": token} if token else {}) | more

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


class Handler(BaseHTTPRequestHandler):
    """Routes of `/api/v1`, the upload and the file store."""

    protocol_version = "HTTP/1.1"
    server: Stub

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        route = self.path.rpartition("/")[2]
        self._note(route)
        if route in self.server.silent:
            return self._hang()
        if route != "IntrospectToken" and self._bearer() == EXPIRED:
            return self._error(401, "Unauthenticated")
        everywhere = None if route == "IntrospectToken" else self.server.errors.get("*")
        if problem := self.server.errors.get(route) or everywhere:
            return self._error(*problem)
        return getattr(self, route)(body)

    def do_PUT(self) -> None:
        self._note("PUT")
        if "PUT" in self.server.silent:
            return self._hang()
        if self.server.cut_uploads:
            self.server.cut_uploads -= 1
            self.rfile.read(10)
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        content = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.server.pause)
        if self.server.upload_status == 200:
            self.server.uploads[self.path.rpartition("/")[2]] = content
        return self._send(self.server.upload_status, b"")

    def do_GET(self) -> None:
        self._note("GET")
        if "GET" in self.server.silent:
            return self._hang()
        return self._file(self.server.archive)

    # -- routes ----------------------------------------------------------------------------------------------
    def IntrospectToken(self, body: dict[str, Any]) -> None:
        good = body.get("token") == TOKEN
        self._json({"active": good, "username": "stubuser"} if good else {"active": False})

    def ListDataFiles(self, body: dict[str, Any]) -> None:
        names = sorted(self.server.files)
        start, most = int(body.get("pageToken") or 0), 2  # pages of two, whatever is asked
        page = names[start : start + most]
        sizes = {name: self.server.listed.get(name, len(self.server.files[name])) for name in page}
        listed = [
            {"name": n, "totalBytes": sizes[n], "creationDate": "2024-11-04T00:00:00.000Z"} for n in page
        ]
        following = {"nextPageToken": str(start + most)} if start + most < len(names) else {}
        self._json({"files": listed} | following)

    def DownloadDataFiles(self, body: dict[str, Any]) -> None:
        self._send(302, b"", Location=f"http://localhost/store/bundle/archive.zip?{SIGNATURE}")

    def StartSubmissionUpload(self, body: dict[str, Any]) -> None:
        token = f"blob-{len(self.server.names)}"
        self.server.names[token] = body["fileName"]
        self._json({"token": token, "createUrl": f"http://localhost/upload/{token}"})

    def CreateSubmission(self, body: dict[str, Any]) -> None:
        server, token = self.server, body["blobFileTokens"]
        if token not in server.uploads:
            return self._error(400, "the file was never uploaded")
        time.sleep(server.pause)
        new = {"ref": 1000 + len(server.submissions), "fileName": server.names[token], "polls": 0}
        new |= {"date": "2026-11-23T10:00:00.000Z", "description": body.get("submissionDescription", "")}
        server.submissions.append(new)
        server.allowed -= 1
        if server.lose_answer == "hang":
            return self._hang()
        if server.lose_answer:
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        return self._json(
            {"message": f"Successfully submitted to {body['competitionName']}", "ref": new["ref"]}
        )

    def GetSubmissionLimits(self, body: dict[str, Any]) -> None:
        made = len(self.server.submissions)
        self._json({"numToday": made, "numTotal": made, "numAllowedNow": self.server.allowed})

    def ListSubmissions(self, body: dict[str, Any]) -> None:
        self._json({"submissions": [self._listed(item) for item in reversed(self.server.submissions)]})

    def _listed(self, item: dict[str, Any]) -> dict[str, Any]:
        item["polls"] += 1
        shown = {k: v for k, v in item.items() if k != "polls"}
        if item["polls"] <= self.server.pending_polls:
            return shown | {"status": "PENDING"}
        if self.server.fails_with:
            return shown | {"status": "ERROR", "errorDescription": self.server.fails_with}
        return shown | {"status": "COMPLETE", "publicScore": self.server.score}

    # -- answers ---------------------------------------------------------------------------------------------
    def _bearer(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _note(self, route: str) -> None:
        self.server.requests.append((route, self.headers.get("Range", "")))

    def _json(self, tree: Any) -> None:
        self._send(200, json.dumps(tree).encode(), content_type="application/json")

    def _error(self, status: int, message: str | None) -> None:
        if message is None:
            return self._send(status, b"<html>a page for people</html>", content_type="text/html")
        return self._send(
            status, json.dumps({"code": status, "message": message}).encode(), content_type="application/json"
        )

    def _send(self, status: int, body: bytes, content_type: str = "text/plain", **headers: str) -> None:
        self.send_response(status)
        for name, value in (
            {"Content-Type": content_type, "Content-Length": str(len(body))} | headers
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _hang(self) -> None:
        self.close_connection = True
        self.server.open.wait(60)

    def _file(self, content: bytes) -> None:
        """A file with Range, If-Range and, where a test wants it, a connection that breaks."""
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        match = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(match[1]) if match and self.headers.get("If-Range", tag) == tag else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Last-Modified", email.utils.formatdate(DATED, usegmt=True))
        self.send_header("ETag", tag)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        most = self.server.cut_after.pop(0) if self.server.cut_after else len(content)
        for at in range(start, min(start + most, len(content)), 65536):
            piece = content[at : min(at + 65536, start + most)]
            self.wfile.write(piece)
            self.server.sent_bytes += len(piece)
            time.sleep(self.server.slow)
        if most < len(content) - start:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


def script(root: Path, name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/NAME.py with configs/kaggle.yaml in the current folder; its output holds no secret."""
    command = [
        sys.executable,
        str(root / "scripts" / f"{name}.py"),
        "--config",
        str(root / "configs" / "kaggle.yaml"),
        *arguments,
    ]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)
    assert not [secret for secret in SECRETS if secret in done.stdout + done.stderr]
    return done


def zipped(content: dict[str, bytes], modes: dict[str, int] | None = None) -> bytes:
    """A zip archive; modes: Unix modes by name, for links and the like."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (modes or {}).get(name, 0o100644) << 16
            archive.writestr(info, data)
    return buffer.getvalue()
