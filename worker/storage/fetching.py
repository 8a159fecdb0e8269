"""Bytes from an address that somebody else chose, without being led into the network this runs in.

Names are resolved here and the connection goes to an address that was looked at: what a name means may change
between two questions (DNS rebinding). Every redirect is a new address.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from worker.errors import ForbiddenInput, InputTooLarge, InputUnavailable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MOST_REDIRECTS = 5
#: Times it is tried where the reason may pass, and seconds between, doubling.
_TRIES, _PAUSE_S = 3, 0.5
_PIECE_BYTES = 64 * 1024
_REDIRECTS = {301, 302, 303, 307, 308}
#: Networks in which addresses of the other kind are wrapped (RFC 6052).
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may be fetched although it is not public: names of hosts, addresses and networks (CIDR).

    Args:
        entries: for example `("assets.internal", "10.1.0.0/16")`.

    Raises:
        ValueError: naming the entry that is neither.
    """

    hosts: frozenset[str]
    networks: tuple[Network, ...]

    @classmethod
    def of(cls, entries: Sequence[str]) -> "Allowed":
        """Read them."""
        hosts, networks = set(), []
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                if "/" in entry or not entry:
                    raise ValueError(f"{entry!r} is no host, address or network") from None
                hosts.add(entry.lower().rstrip("."))
        return cls(frozenset(hosts), tuple(networks))

    def host(self, name: str) -> bool:
        """Whether a name is one of them."""
        return name.lower().rstrip(".") in self.hosts

    def address(self, address: Address) -> bool:
        """Whether an address is one of them, or public."""
        inner = unwrapped(address)
        if any(inner in network for network in self.networks if network.version == inner.version):
            return True
        return inner.is_global and not inner.is_multicast


def unwrapped(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one that only carries it: what a packet reaches in the end."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped:
        return address.ipv4_mapped
    if address.sixtofour:
        return address.sixtofour
    if address.teredo:
        return address.teredo[1]
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


class Fetcher:
    """Use it on one event loop; its session is made when it is first used.

    Args:
        allowed: what is not public and may be fetched.
        timeout_s: seconds for all of it, redirects included.
    """

    def __init__(self, allowed: Allowed, timeout_s: float) -> None:
        self._allowed, self._timeout_s = allowed, timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, url: str, most_bytes: int) -> bytes:
        """What is at `url`, where that is at most so many bytes.

        Raises:
            ForbiddenInput: it, or where it leads, is not public, or is not http(s).
            InputTooLarge: it has more bytes than it may.
            InputUnavailable: nobody answers, or not with it.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._persistently(url, most_bytes)
        except TimeoutError:
            raise InputUnavailable(f"{_shown(url)} was not there within {self._timeout_s:g} s.") from None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def _persistently(self, url: str, most_bytes: int) -> bytes:
        for attempt in range(_TRIES):
            try:
                return await self._follow(url, most_bytes)
            except _Passing as error:
                last = str(error)
            if attempt < _TRIES - 1:
                await asyncio.sleep(_PAUSE_S * 2**attempt)
        raise InputUnavailable(f"{_shown(url)}: {last}.")

    async def _follow(self, url: str, most_bytes: int) -> bytes:
        at = _parsed(url)
        for _ in range(MOST_REDIRECTS + 1):
            self._check(at)
            found = await self._get(at, most_bytes)
            if isinstance(found, bytes):
                return found
            at = found
        raise InputUnavailable(f"{_shown(url)} leads on more than {MOST_REDIRECTS} times.")

    def _check(self, url: URL) -> None:
        """Refuse what can be refused by the address alone; names are looked at when they are resolved."""
        if url.scheme not in {"http", "https"}:
            raise ForbiddenInput(f"`url` {_shown(url)} is {url.scheme or 'no'}://, not http or https.")
        if url.user or url.password:
            raise ForbiddenInput(f"`url` {_shown(url)} carries credentials.")
        if not url.host:
            raise ForbiddenInput(f"`url` {_shown(url)} names no host.")
        try:
            address = ipaddress.ip_address(url.host.partition("%")[0])
        except ValueError:
            name = url.host.lower().rstrip(".")
            if f".{name}".endswith(".localhost") and not self._allowed.host(name):  # whatever answers for it
                raise _private(url.host) from None
            return
        if not self._allowed.address(address):
            raise _private(url.host)

    async def _get(self, url: URL, most_bytes: int) -> bytes | URL:
        """The bytes there, or where it leads."""
        try:
            async with self._connected().get(url, allow_redirects=False) as answer:
                if answer.status in _REDIRECTS and (target := answer.headers.get("location")):
                    return _joined(url, target)
                if answer.status == 429 or answer.status >= 500:
                    raise _Passing(f"it answers {answer.status}")
                if answer.status != 200:
                    raise InputUnavailable(f"{_shown(url)} answers {answer.status}.")
                return await _read(url, answer, most_bytes)
        except _NotPublic as error:
            raise _private(str(error)) from None
        except aiohttp.InvalidURL:  # numbers that are no address, as `127.1` and `0177.0.0.1`
            raise _private(url.host or "") from None
        except aiohttp.ClientError as error:
            if isinstance(error.__cause__, _NotPublic) or isinstance(error.__context__, _NotPublic):
                raise _private(url.host or "") from None
            raise _Passing(f"it cannot be reached ({type(error).__name__})") from None
        except OSError as error:
            raise _Passing(f"it cannot be reached ({error.strerror or type(error).__name__})") from None

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=_Looking(self._allowed), use_dns_cache=False),
                timeout=aiohttp.ClientTimeout(total=None),
                headers={"Accept-Encoding": "identity", "User-Agent": "kc-worker"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


async def _read(url: URL, answer: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise InputUnavailable(f"{_shown(url)} is sent compressed although that was not asked for.")
    too_large = InputTooLarge(f"{_shown(url)} has more than {most_bytes:,} bytes.")
    if (answer.content_length or 0) > most_bytes:
        raise too_large
    pieces = bytearray()
    async for piece in answer.content.iter_chunked(_PIECE_BYTES):
        pieces += piece
        if len(pieces) > most_bytes:
            raise too_large
    return bytes(pieces)


class _Passing(Exception):
    """A reason that may pass."""


class _NotPublic(OSError):
    """A name leads to an address that is not public."""


class _Looking(AbstractResolver):
    """Resolves names, and refuses those of which any address is not public."""

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Addresses of a name; also of an address that is written in another way (`0x7f.1`, `2130706433`)."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        results: list[ResolveResult] = []
        for kind, _, protocol, _, where in found:
            address = ipaddress.ip_address(str(where[0]).partition("%")[0])
            if not (self._allowed.host(host) or self._allowed.address(address)):
                raise _NotPublic(host)
            looked_at = ResolveResult(
                hostname=host,
                host=str(where[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
            results.append(looked_at)
        return results

    async def close(self) -> None:
        """Nothing is held."""


def _private(host: str) -> ForbiddenInput:
    return ForbiddenInput(
        f"`url`: {host!r} is not a public address.", "Allow it with FETCH_ALLOW on the worker if it is meant."
    )


def _parsed(url: str) -> URL:
    try:
        return URL(url)
    except ValueError:
        raise ForbiddenInput(f"`url` {_shown(url)} is not a URL.") from None


def _joined(url: URL, target: str) -> URL:
    try:
        return url.join(URL(target))
    except ValueError:
        raise InputUnavailable(f"{_shown(url)} leads to what is not a URL.") from None


def _shown(url: Any) -> str:
    """For messages: short, and without what may be secret."""
    text = str(url)
    head, at, rest = text.partition("@")
    scheme = head.partition("://")[0]
    text = f"{scheme}://…@{rest}" if at and "://" in head and "/" not in head.partition("://")[2] else text
    return repr(text.partition("?")[0][:200])
