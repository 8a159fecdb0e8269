"""SVG drawings: drawn as they are, and nothing but what is in them."""

import base64
import io
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from worker.documents.child import _opened
from worker.documents.document import opened
from worker.documents.readers import Readers
from worker.documents.svg import Svg
from worker.errors import InputTooLarge, InputUnavailable

RED = '<rect width="100%" height="100%" fill="red"/>'


def drawn(
    tmp_path: Path, inner: str, attributes: str = 'width="200" height="100"', head: str = ""
) -> Image.Image:
    path = tmp_path / "x.svg"
    path.write_text(
        f'{head}<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {attributes}>{inner}</svg>'
    )
    return _opened(path, "`image`", 1_000_000).picture(1, 96, 400)


@pytest.mark.parametrize(
    "attributes",
    [
        'width="200" height="100"',
        'viewBox="0 0 20 10"',
        'width="4in" height="2in"',
        'width="100%" viewBox="0 0 2 1"',
    ],
)
def test_a_drawing_has_the_size_it_is_looked_at(tmp_path: Path, attributes: str) -> None:
    head = '<?xml version="1.0"?>\n<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/x.dtd">\n<!-- x -->'
    picture = drawn(tmp_path, RED, attributes, head)
    assert picture.size == (400, 200)
    assert picture.getpixel((200, 100)) == (255, 0, 0)


def test_what_is_not_painted_is_white(tmp_path: Path) -> None:
    assert drawn(tmp_path, "").getpixel((5, 5)) == (255, 255, 255)


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        yield server


@pytest.mark.parametrize("attribute", ["href", "xlink:href"])
@pytest.mark.parametrize("how", ["path", "relative", "file", "http", "inner"])
def test_nothing_from_elsewhere_is_drawn(
    tmp_path: Path, listener: socket.socket, how: str, attribute: str
) -> None:
    (tmp_path / "secret.png").write_bytes(png("blue"))
    inner = base64.b64encode(
        f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{tmp_path}/secret.png"/></svg>'.encode()
    ).decode()
    link = {
        "path": f"{tmp_path}/secret.png",
        "relative": "secret.png",
        "file": f"file://{tmp_path}/secret.png",
        "http": f"http://127.0.0.1:{listener.getsockname()[1]}/secret.png",
        "inner": f"data:image/svg+xml;base64,{inner}",
    }[how]
    image = f'<image {attribute}="{link}" width="200" height="100"/>'
    style = f"<style>@import url({link}); rect {{ fill: url('{link}') }}</style>"
    picture = drawn(tmp_path, image + style)
    assert picture.getcolors() == [(400 * 200, (255, 255, 255))]
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_pictures_inside_are_drawn(tmp_path: Path) -> None:
    data = base64.b64encode(png("blue")).decode()
    image = (
        f'<image href="data:image/png;base64,{data}" width="200" height="100" preserveAspectRatio="none"/>'
    )
    assert drawn(tmp_path, image).getpixel((200, 100)) == (0, 0, 255)


@pytest.mark.parametrize("form", ["base64", "percent"])
def test_pictures_inside_are_held_to_the_limit_together(tmp_path: Path, form: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (1000, 600), "blue").save(buffer, "PNG")
    data = buffer.getvalue()
    encoded = f";base64,{base64.b64encode(data).decode()}" if form == "base64" else f",{quote(data)}"
    link = f"data:image/png{encoded}"
    images = "".join(
        f'<image href="{link}" x="{x}" width="100" height="100" preserveAspectRatio="none"/>'
        for x in (0, 100)
    )
    picture = drawn(tmp_path, images)
    assert picture.getpixel((100, 100)) == (0, 0, 255)
    assert picture.getpixel((300, 100)) == (255, 255, 255), "the second is over the limit of all"


async def test_what_is_written_is_read(readers: Readers) -> None:
    """By a process of its own: what is parsed was drawn by a stranger."""
    data = b"""<svg xmlns="http://www.w3.org/2000/svg"><text>Check <tspan>the</tspan> order</text><g><text>Za\xc5\xbc</text></g>
    <foreignObject><div xmlns="http://www.w3.org/1999/xhtml">Ship</div></foreignObject><style>no</style></svg>"""
    async with opened(readers, data, "x", 10**6) as document:
        assert await document.words() == "Check the order\nZaż\nShip"


async def test_texts_inside_of_texts_are_said_once(readers: Readers) -> None:
    inner = "<text>a" * 20_000 + "</text>" * 20_000
    data = f'<svg xmlns="http://www.w3.org/2000/svg">{inner}<text>b</text></svg>'.encode()
    async with opened(readers, data, "x", 10**6) as document:
        words = await document.words()
    assert words == "a" * 8_000
    nested = b'<svg xmlns="http://www.w3.org/2000/svg"><text>a <text>b</text></text></svg>'
    async with opened(readers, nested, "x", 10**6) as document:
        assert await document.words() == "a b"


@pytest.mark.parametrize(
    "text",
    [
        "<svg", "<svg><a></svg>",
        '<!DOCTYPE svg [<!ENTITY a "ha">]><svg xmlns="http://www.w3.org/2000/svg"><text>&a;</text></svg>',
        '<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg"><text>&a;</text></svg>',
    ],
)  # fmt: skip
def test_broken_and_harmful_drawings_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.svg").write_text(text)
    with pytest.raises(InputUnavailable, match="SVG"):
        Svg(tmp_path / "x.svg", "`image`", 1000).picture(1, 0, 10)


def test_too_many_pixels_are_not_drawn(tmp_path: Path) -> None:
    (tmp_path / "x.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="100000" height="100000"/>'
    )
    with pytest.raises(InputTooLarge, match="100,000 x 100,000"):
        Svg(tmp_path / "x.svg", "`image`", 1_000_000).picture(1)


def test_what_grows_without_end_is_not_drawn(tmp_path: Path) -> None:
    groups = '<g id="g0"><rect width="1" height="1"/></g>'
    for level in range(1, 9):
        groups += f'<g id="g{level}">' + f'<use href="#g{level - 1}"/>' * 10 + "</g>"
    with pytest.raises(InputUnavailable, match="cannot be drawn"):
        drawn(tmp_path, f'<defs>{groups}</defs><use href="#g8"/>')
