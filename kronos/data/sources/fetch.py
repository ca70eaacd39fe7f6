"""One answer of a web service, or one line that says why there is none.

In: an address. Out: its bytes. Only https (http on this machine itself), redirects only to the same host, at
most so many bytes and seconds, a few tries with growing pauses where trying again may help. Nothing that
arrives is executed. `requests` is imported where it is used: it takes a fifth of a second, and most runs ask nobody.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from kronos.errors import KitError

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

TRIES = 4
BACK_OFF = 2.0
"""Seconds before the second try; doubled before each later one."""
LONGEST_WAIT = 120.0
"""Seconds that a service may ask us to wait (Retry-After)."""
CONNECT_SECONDS, SILENCE_SECONDS = 10.0, 30.0
DEADLINE = 300.0
"""Seconds that one answer may take in all: a slow body must not hold up a run for hours."""
LARGEST = 256 * 2**20
"""Bytes of one answer, unpacked."""
REDIRECTS = 5
TRY_AGAIN = {429, 500, 502, 503, 504}
AGENT = "Mozilla/5.0 (kronos-kaggle-kit)"
OWN_MACHINE = {"127.0.0.1", "::1", "localhost"}


class Refused(Exception):
    """Why there is no answer that can be kept. again: whether another try may help. wait: seconds that the
    service asks for.
    """

    def __init__(self, reason: str, again: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.again, self.wait = again, wait


class Fetcher:
    """Asks one service, with at least `pause` seconds between two requests."""

    def __init__(self, pause: float) -> None:
        import requests

        self.pause = pause
        self._last = float("-inf")
        self._session = requests.Session()
        self._session.headers["User-Agent"] = AGENT

    def get(
        self,
        url: str,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        check: Callable[[bytes], object] | None = None,
        largest: int = LARGEST,
    ) -> bytes:
        """The answer's bytes, after at most TRIES tries.

        check: raises `Refused` for bytes that are no answer. Raises `Refused` with the reason of the last
        try, KitError for an address that is not https.
        """
        for attempt in range(TRIES):
            try:
                body = self._once(url, params, headers, largest)
                refuse_html(body)
                if check is not None:
                    check(body)
                return body
            except Refused as refused:
                if not refused.again or attempt == TRIES - 1:
                    raise
                time.sleep(max(BACK_OFF * 2**attempt, min(refused.wait, LONGEST_WAIT)))
        raise AssertionError("the last try returns or raises")

    def _once(
        self, url: str, params: Mapping[str, str] | None, headers: Mapping[str, str] | None, largest: int
    ) -> bytes:
        import requests
        import urllib3

        address, asked = url, params
        deadline = time.monotonic() + DEADLINE
        for _ in range(REDIRECTS + 1):
            check_address(address)
            self._rest()
            try:
                with self._session.get(
                    address,
                    params=asked,
                    headers=headers,
                    stream=True,
                    allow_redirects=False,
                    timeout=(CONNECT_SECONDS, SILENCE_SECONDS),
                ) as response:
                    if not response.is_redirect:
                        return _body(response, largest, deadline)
                    address, asked = _target(response), None
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                raise Refused(f"no whole answer ({_plain(error)})", again=True) from error
        raise Refused(f"more than {REDIRECTS} redirects")

    def _rest(self) -> None:
        """Wait until the pause since the last request is over."""
        left = self._last + self.pause - time.monotonic()
        if left > 0:
            time.sleep(left)
        self._last = time.monotonic()


def check_address(url: str) -> None:
    """Raise KitError unless the address is https, or http on this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in OWN_MACHINE):
        return
    raise KitError(
        f"{url}: expected an address that begins with https://, found {parts.scheme or 'none'}; use the secure one"
    )


def refuse_html(body: bytes) -> None:
    """Some services answer 200 with a page for people: an error, a login, a puzzle. Raises `Refused`."""
    start = body[:2000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<body")):
        raise Refused("a web page in place of data: the service wants a person, or blocks this machine")


def _body(response: "requests.Response", largest: int, deadline: float) -> bytes:
    if response.status_code != 200:
        wait = response.headers.get("Retry-After", "")
        raise Refused(
            f"HTTP {response.status_code} {response.reason or ''}".rstrip(),
            again=response.status_code in TRY_AGAIN,
            wait=float(wait) if wait.isdigit() else 0.0,
        )
    pieces, size = [], 0
    while piece := response.raw.read1(
        1 << 16, decode_content=True
    ):  # what has arrived; iter_content waits for 64 KiB
        pieces.append(piece)
        size += len(piece)
        if size > largest:
            raise Refused(f"more than {largest:,} bytes")
        if time.monotonic() > deadline:
            raise Refused(f"not complete after {DEADLINE:g} seconds", again=True)
    if not size:
        raise Refused("an empty answer", again=True)
    return b"".join(pieces)


def _target(response: "requests.Response") -> str:
    """Where a redirect leads, when that is the same host and as secure."""
    old = urlsplit(response.url)
    address = urljoin(response.url, response.headers["Location"])
    new = urlsplit(address)
    if (new.hostname, new.port) != (old.hostname, old.port) or new.scheme != old.scheme:
        raise Refused(f"a redirect to {new.scheme}://{new.netloc}, which is another place")
    return address


def _plain(error: Exception) -> str:
    """The kind of a network error, without addresses and object names."""
    import requests
    import urllib3

    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "time-out"
    if isinstance(error, requests.exceptions.SSLError):
        return "the certificate or the encryption failed"
    if isinstance(error, urllib3.exceptions.ProtocolError | urllib3.exceptions.DecodeError):
        return "the body was cut off or damaged"
    return "the connection failed"
