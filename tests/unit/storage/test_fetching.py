"""Addresses that somebody else chose: nothing that is not public is connected to."""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import ForbiddenInput, InputTooLarge, InputUnavailable
from worker.storage.fetching import Allowed, Fetcher, unwrapped

MiB = 2**20


class Site:
    """A web server on 127.0.0.1 that counts who connects."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.port = 0
        self.answers: dict[str, Callable[[web.Request], Any]] = {}

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path)
        return await self.answers[request.path](request)

    def says(self, path: str, body: bytes = b"hello", status: int = 200, **headers: str) -> str:
        async def answer(_request: web.Request) -> web.Response:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return web.Response(body=body, status=status, headers=named)

        self.answers[path] = answer
        return f"http://127.0.0.1:{self.port}{path}"

    def leads(self, path: str, target: str) -> str:
        return self.says(path, status=302, location=target)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", site._answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.port = runner.addresses[0][1]
    yield site
    await runner.cleanup()


@pytest.fixture
async def fetch() -> AsyncIterator[Callable[..., Any]]:
    """`fetch(url, "127.0.0.1", most=…, timeout_s=…)`: what is allowed besides the public."""
    made: list[Fetcher] = []

    async def fetch(url: str, *allowed: str, most: int = MiB, timeout_s: float = 5) -> bytes:
        fetcher = Fetcher(Allowed.of(allowed), timeout_s)
        made.append(fetcher)
        return await fetcher.fetch(url, most)

    yield fetch
    for fetcher in made:
        await fetcher.close()


async def test_what_is_allowed_is_fetched(site: Site, fetch: Callable[..., Any]) -> None:
    url = site.says("/a.png", b"bytes")
    assert await fetch(url, "127.0.0.1") == b"bytes"
    assert await fetch(url, "127.0.0.0/8") == b"bytes"
    assert await fetch(url.replace("127.0.0.1", "localhost"), "localhost") == b"bytes"


FORMS = [
    "127.0.0.1", "127.0.0.2", "127.255.255.254", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "017700000001",
    "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:0:0:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
    "localhost", "LOCALHOST", "localhost.", "0.0.0.0", "0", "[::]",
    "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255",
    "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "192.0.2.1", "198.18.0.1", "240.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("host", FORMS)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_no_form_of_a_private_address_is_connected_to(
    site: Site, fetch: Callable[..., Any], host: str, scheme: str
) -> None:
    site.says("/secret")
    with pytest.raises(ForbiddenInput):
        await fetch(f"{scheme}://{host}:{site.port}/secret")
    assert site.requests == []


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "gopher://127.0.0.1:{port}/_x", "ftp://127.0.0.1/x", "dict://127.0.0.1:{port}/x", "data:text/plain,x",
     "http://user:secret@127.0.0.1:{port}/secret", "http://user@example.com/", "//127.0.0.1:{port}/secret", "http:///secret",
     "javascript:alert(1)", "unix:///var/run/docker.sock", "", "http://", "not a url", "http://[::1", "http://127.0.0.1:99999/"],
)  # fmt: skip
async def test_what_is_not_plain_http_is_forbidden(site: Site, fetch: Callable[..., Any], url: str) -> None:
    site.says("/secret")
    with pytest.raises(ForbiddenInput) as refused:
        await fetch(url.format(port=site.port))
    assert "secret@" not in str(refused.value)
    assert site.requests == []


@pytest.mark.parametrize("target", ["http://127.0.0.2:{port}/secret", "http://[::1]:{port}/secret", "file:///etc/passwd",
                                    "//127.0.0.2:{port}/secret", "http://2130706434:{port}/secret", "http://u:p@127.0.0.1:{port}/secret"])  # fmt: skip
async def test_a_redirect_is_a_new_address(site: Site, fetch: Callable[..., Any], target: str) -> None:
    site.says("/secret")
    url = site.leads("/a.png", target.format(port=site.port))
    with pytest.raises(ForbiddenInput):
        await fetch(url, "127.0.0.1")
    assert site.requests == ["/a.png"]


async def test_redirects_are_followed_and_end(site: Site, fetch: Callable[..., Any]) -> None:
    site.says("/c", b"there")
    site.leads("/b", "/c")
    assert await fetch(site.leads("/a", "/b"), "127.0.0.1") == b"there"
    with pytest.raises(InputUnavailable, match="more than 5 times"):
        await fetch(site.leads("/loop", "/loop"), "127.0.0.1")


async def test_a_name_that_changes_its_mind_is_not_followed(
    site: Site, fetch: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public when it is looked at, 127.0.0.1 when it is connected to."""
    asked: list[str] = []
    loop = asyncio.get_running_loop()
    real = loop.getaddrinfo

    async def rebinding(host: Any, port: Any, **kwargs: Any) -> Any:
        asked.append(str(host))
        if host == "rebind.test":
            first = len([one for one in asked if one == "rebind.test"]) == 1
            where = "93.184.216.34" if first else "127.0.0.1"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (where, port))]
        return await real(host, port, **kwargs)

    monkeypatch.setattr(loop, "getaddrinfo", rebinding)
    site.says("/secret")
    with pytest.raises((ForbiddenInput, InputUnavailable)):
        await fetch(f"http://rebind.test:{site.port}/secret", timeout_s=2)
    assert site.requests == []


async def test_a_name_of_which_one_address_is_private_is_forbidden(
    site: Site, fetch: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def both(host: Any, port: Any, **kwargs: Any) -> Any:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (where, port))
            for where in ("93.184.216.34", "127.0.0.1")
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
    site.says("/secret")
    with pytest.raises(ForbiddenInput):
        await fetch(f"http://both.test:{site.port}/secret")
    assert site.requests == []


async def test_limits_of_bytes_hold_with_and_without_a_length(site: Site, fetch: Callable[..., Any]) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x" * 65536)

    with pytest.raises(InputTooLarge):
        await fetch(site.says("/big", b"x" * (MiB + 1)), "127.0.0.1")
    site.answers["/endless"] = endless
    with pytest.raises(InputTooLarge):
        await fetch(f"http://127.0.0.1:{site.port}/endless", "127.0.0.1")
    with pytest.raises(InputUnavailable, match="compressed"):
        await fetch(site.says("/gz", b"\x1f\x8b", content_encoding="gzip"), "127.0.0.1")


async def test_what_drips_or_hangs_is_given_up(site: Site, fetch: Callable[..., Any]) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x")
            await asyncio.sleep(0.05)

    site.answers["/drip"] = drip
    with pytest.raises(InputUnavailable, match=r"within 0.5 s"):
        await fetch(f"http://127.0.0.1:{site.port}/drip", "127.0.0.1", timeout_s=0.5)


async def test_what_passes_is_tried_again_and_what_does_not_is_not(
    site: Site, fetch: Callable[..., Any]
) -> None:
    with pytest.raises(InputUnavailable, match="404"):
        await fetch(site.says("/none", status=404), "127.0.0.1")
    assert site.requests == ["/none"]
    with pytest.raises(InputUnavailable, match="503"):
        await fetch(site.says("/busy", status=503), "127.0.0.1")
    assert site.requests.count("/busy") == 3


@pytest.mark.parametrize("entry", ["10.0.0.0/99", "a/b", ""])
def test_what_is_no_host_address_or_network_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="no host"):
        Allowed.of([entry])


@given(st.ip_addresses(v=4))
def test_an_address_is_the_same_however_it_is_wrapped(address: ipaddress.IPv4Address) -> None:
    mapped = ipaddress.IPv6Address(f"::ffff:{address}")
    nat64 = ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) + int(address))
    sixtofour = ipaddress.IPv6Address((0x2002 << 112) | (int(address) << 80))
    nothing = Allowed.of(())
    for wrapped in (mapped, nat64, sixtofour):
        assert unwrapped(wrapped) == address
        assert nothing.address(wrapped) == nothing.address(address)
