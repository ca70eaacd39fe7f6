"""What every request passes before a route sees it: who may ask, in which form, and how much.

In: a request as the server hands it over. Out: the same for the application, or one `application/problem+json`.
The body is counted as it arrives, also when its length was not said. No answer allows another page to read it
(no CORS header), and POST and PUT take JSON only, which another page cannot send.
"""

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kronos.errors import KitError
from kronos.service.schema import Problem, Refused
from kronos.service.state import State, dumps

log = logging.getLogger(__name__)

BODY_S = 30
"""Seconds in which a body has to arrive."""
HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
OPEN = re.compile(r"/|/assets/[a-z0-9.-]+|/health/(live|ready)")
"""What needs no key: the page without its data, and what a supervisor asks."""
HEALTH = re.compile(r"/health/(live|ready)|/metrics")


class Turnstile:
    """Lets one request in at each turn of the event loop: a thousand that come at once are parsed one by one,
    and what is quick (health, metrics) is answered between them.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Return when it is this request's turn."""
        loop = asyncio.get_running_loop()
        mine = loop.create_future()
        self._waiting.append(mine)
        if len(self._waiting) == 1:
            loop.call_soon(self._next, loop)
        await mine

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        mine = self._waiting.popleft()
        if not mine.done():
            mine.set_result(None)
        if self._waiting:
            loop.call_soon(self._next, loop)


class Guard:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self.app, self.state = app, state
        self.turnstile = Turnstile()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        answer = Sending(send, f"req_{secrets.token_hex(8)}", scope["method"])
        scope["state"] = {**scope.get("state", {}), "request_id": answer.request_id}
        watched = HEALTH.fullmatch(scope["path"]) is None
        self.state.active += watched
        try:
            self._check(scope)
            if scope["method"] in ("POST", "PUT"):
                await self.turnstile.enter()
            await self.app(scope, self._counted(scope, receive), answer)
        except Refused as refused:
            await answer.refuse(refused)
        except ClientDisconnect:
            self.state.metrics.rejected.labels("client left").inc()
        except Exception as error:  # noqa: BLE001 - the outermost place: one problem for the caller
            # Whatever it is, a caller gets no trace of it, and the log no data: KitErrors are lines of ours.
            said = str(error) if isinstance(error, KitError) else type(error).__name__
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("%s: internal error: %s\n%s", answer.request_id, said, where)
            await answer.refuse(internal())
        finally:
            self.state.active -= watched
            route = getattr(scope.get("route"), "path", "none")
            self.state.metrics.requests.labels(route, str(answer.status)).inc()

    # -- what is looked at -----------------------------------------------------------------------------------
    def _check(self, scope: Scope) -> None:
        headers = _headers(scope)
        self._check_host(headers.get("host", ""))
        if self.state.settings.keys and not OPEN.fullmatch(scope["path"]):
            self._check_key(headers.get("authorization", ""))
        if scope["method"] in ("POST", "PUT"):
            self._check_sent(headers, self._most(scope))

    def _check_host(self, host: str) -> None:
        """Only the names that the service goes by: a page that lets its name point here is another's."""
        name = re.sub(r":\d+$", "", host)
        if name.lower() not in self.state.settings.names:
            problem = Problem(
                "Host", "a name of this service", "another", "use 127.0.0.1, or name it with --allow-host"
            )
            raise Refused(403, "host", problem.line(), [problem])

    def _check_key(self, given: str) -> None:
        scheme, _, key = given.partition(" ")
        digest = hashlib.sha256(key.strip().encode()).hexdigest()
        known = [hmac.compare_digest(digest, one) for one in self.state.settings.keys]  # all, always
        if scheme.lower() != "bearer" or not any(known):
            found = "none" if not given else "another"
            problem = Problem("Authorization", "Bearer and a key of this service", found, "send a key")
            raise Refused(401, "key", problem.line(), [problem], {"WWW-Authenticate": "Bearer"})

    def _check_sent(self, headers: dict[str, str], most: int) -> None:
        if self.state.draining:
            self.state.metrics.rejected.labels("draining").inc()
            raise draining()
        kind, _, rest = headers.get("content-type", "").partition(";")
        coded = headers.get("content-encoding", "identity").lower() != "identity"
        charset = rest.strip().lower().replace('"', "")
        if kind.strip().lower() != "application/json" or coded or charset not in ("", "charset=utf-8"):
            problem = Problem("Content-Type", "application/json", "another", "send plain JSON in UTF-8")
            raise Refused(415, "media_type", problem.line(), [problem])
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > most:
            raise self._too_large(most)

    def _most(self, scope: Scope) -> int:
        """Bytes that a body may have."""
        own = self.state.settings
        return own.job_bytes if scope["path"] == "/v1/jobs" else own.body_bytes

    def _too_large(self, most: int) -> Refused:
        remedy = "send fewer series, or a job (POST /v1/jobs)"
        if most == self.state.settings.job_bytes:
            remedy = "send several jobs, or name tickers of the service's store (--store)"
        problem = Problem("body", f"at most {most:,} bytes", "more", remedy)
        return Refused(413, "too_large", problem.line(), [problem], {"Connection": "close"})

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        """`receive` that counts what arrives and waits for it no longer than `BODY_S`."""
        loop, most = asyncio.get_running_loop(), self._most(scope)
        count, whole, until = 0, False, loop.time() + BODY_S

        async def counted() -> Message:
            nonlocal count, whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), until - loop.time())
            except TimeoutError:
                problem = Problem("body", f"all of it within {BODY_S} s", "a part", "send it faster")
                raise Refused(408, "slow", problem.line(), [problem], {"Connection": "close"}) from None
            count += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if count > most:
                raise self._too_large(most)
            return message

        return counted


class Sending:
    """`send` that adds the headers of every answer and remembers its status."""

    def __init__(self, send: Send, request_id: str, method: str) -> None:
        self._send, self.request_id, self._method = send, request_id, method
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = {**HEADERS, "x-request-id": self.request_id}
            names = {name for name, _ in message["headers"]}
            if b"cache-control" not in names:
                headers["cache-control"] = "no-store"
            own = [(name.encode(), value.encode()) for name, value in headers.items()]
            message = {**message, "headers": [*message["headers"], *own]}
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        """Send a problem, unless an answer has begun."""
        if self.status:
            return
        body = dumps(refused.tree(self.request_id))
        headers = {"Content-Type": "application/problem+json", "Content-Length": str(len(body))}
        pairs = [(k.lower().encode(), v.encode()) for k, v in {**headers, **refused.headers}.items()]
        await self({"type": "http.response.start", "status": refused.status, "headers": pairs})
        sent = b"" if self._method == "HEAD" else body
        await self({"type": "http.response.body", "body": sent})


def internal() -> Refused:
    """A 500, which says nothing of what went wrong: the log does."""
    return Refused(500, "internal", "an internal error; the service's log says which, by the request_id")


def draining() -> Refused:
    """A 503 while the service ends."""
    return Refused(503, "draining", "the service is ending; ask again in 5 s", headers={"Retry-After": "5"})


async def body(request: Request) -> bytes:
    """The bytes of a request's body, which the guard counts. The request keeps none of them: a thousand may
    wait for their answers.
    """
    return b"".join([part async for part in request.stream()])


async def while_connected(request: Request, work: Awaitable[Any]) -> Any:
    """What `work` gives; cancelled, with ClientDisconnect raised, when the client leaves before."""
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return await task
    finally:
        for one in (task, left):
            one.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


async def _left(receive: Callable[[], Awaitable[Message]]) -> None:
    """Return when the client has left. The body has been read, so nothing else comes."""
    while (await receive())["type"] != "http.disconnect":
        pass


def read_keys(path: str | Path) -> tuple[str, ...]:
    """SHA-256 digests in a key file: one a line, `#` begins a comment. Raises KitError on anything else, and
    on a file that others may write.
    """
    path = Path(path)
    if not path.is_file():
        raise KitError(
            f"--keys {path}: expected a file with one SHA-256 of a key a line, found none; make a key: "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))', its line: printf %s KEY | sha256sum"
        )
    if path.stat().st_mode & 0o022:
        raise KitError(f"--keys {path}: expected a file that only you may write, found others may; chmod 600")
    lines = [line.split("#")[0].split() for line in path.read_text(encoding="utf-8").splitlines()]
    digests = [words[0].lower() for words in lines if words]
    if not digests or any(re.fullmatch(r"[0-9a-f]{64}", one) is None for one in digests):
        raise KitError(
            f"--keys {path}: expected one SHA-256 a line, 64 hexadecimal digits, found another form; "
            "printf %s KEY | sha256sum makes one"
        )
    return tuple(digests)


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
