"""Pictures of text, read by the real models: askew, noisy, turned, as PDF, TIFF, PNG and JPEG."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tests import papers
from tests.unit.documents.test_text_layers import cells

#: A bad scan may have so many characters wrong.
MOST_WRONG = 0.02
TABLE = [list(row) for row in papers.TABLE]


async def test_a_bad_scan_is_read_right(read) -> None:
    page = await read(papers.scanned(papers.pdf([papers.lines(60, 80, papers.PROSE * 4, pitch=16)])))
    assert page["source"] == "ocr"
    assert papers.wrong_share(" ".join(papers.PROSE * 4), page["markdown"]) <= MOST_WRONG
    assert page["confidence"] > 0.9
    assert (page["unit"], round(page["width"]), round(page["height"])) == ("pt", papers.WIDTH, papers.HEIGHT)
    first = page["lines"][0]
    assert 0 < first["box"][0] < 90
    assert 0.5 < first["confidence"] <= 1


@pytest.mark.parametrize("ruled", [True, False])
async def test_a_scanned_table_keeps_its_cells(read, ruled: bool) -> None:
    content = papers.lines(60, 80, papers.PROSE[:2]) + papers.table(60, 130, ruled=ruled)
    page = await read(papers.scanned(papers.pdf([content])))
    assert cells(page["markdown"]) == TABLE


async def test_scanned_columns_are_read_one_after_the_other(read) -> None:
    page = await read(papers.scanned(papers.pdf([papers.columns()])))
    words = page["markdown"]
    places = [words.index(line.split()[0]) for line in ("A title", *papers.LEFT[:1], "Trade")]
    assert places == sorted(places)
    body = " ".join([*papers.LEFT, *papers.RIGHT])
    assert papers.wrong_share(body, words[words.index("When") :]) <= MOST_WRONG


@pytest.mark.parametrize("turned", [90, 180, 270])
async def test_a_page_that_lies_on_its_side_or_head_is_read(read, turned: int) -> None:
    document = papers.pdf([papers.lines(60, 80, papers.PROSE) + papers.table(60, 200, ruled=True)])
    page = await read(papers.scanned(document, angle=1, turned=turned), dpi=110)
    assert page["turned"] == turned
    assert papers.wrong_share(" ".join(papers.PROSE), page["markdown"].partition("\n\n|")[0]) <= MOST_WRONG
    assert cells(page["markdown"]) == TABLE
    assert page["width"] < page["height"], "as it is read"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
async def test_a_picture_is_a_page(read, kind: str) -> None:
    (picture,) = papers.looked_at(papers.pdf([papers.said(60, 80, "One line of text", 20)]), 150)
    page = await read(papers.saved(kind, picture))
    assert page["markdown"].endswith("One line of text")
    assert (page["unit"], page["width"], page["height"]) == ("px", *picture.size)
    left, top, _, bottom = page["lines"][0]["box"]
    assert left == pytest.approx(60 * 150 / 72, abs=12)
    assert top < 80 * 150 / 72 < bottom + 12


async def test_every_frame_of_a_tiff_is_a_page(read) -> None:
    frames = papers.looked_at(
        papers.pdf([papers.said(60, 80, text, 24) for text in ("The first", "The second")]), 100
    )
    document = papers.saved("TIFF", *frames)
    assert "The first" in (await read(document, page=1))["markdown"]
    assert "The second" in (await read(document, page=2))["markdown"]


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "I;16B", "P", "RGBA", "CMYK"])
async def test_every_kind_of_pixel_is_read(read, mode: str) -> None:
    (picture,) = papers.looked_at(papers.pdf([papers.said(60, 80, "One line of text", 24)]), 100)
    small = picture.crop((0, 60, 500, 180))
    if mode in {"I;16", "I;16B"}:
        pixels = (np.asarray(small.convert("L")).astype(np.uint16) * 257).astype(
            ">u2" if mode == "I;16B" else "<u2"
        )
        small = Image.fromarray(pixels)
    else:
        small = small.convert(mode)
    assert (await read(papers.saved("TIFF", small)))["markdown"].endswith("One line of text")


async def test_nothing_is_read_of_an_empty_page(read) -> None:
    page = await read(papers.saved("PNG", Image.new("RGB", (600, 800), "white")))
    assert (page["markdown"], page["characters"], page["confidence"], page["lines"]) == ("", 0, 0.0, [])


def _polish_font() -> str | None:
    """A font of the machine with Polish letters."""
    usual = Path("/usr/share/fonts/truetype")
    names = ("liberation/LiberationSans-Regular.ttf", "dejavu/DejaVuSans.ttf")
    return next((str(usual / name) for name in names if (usual / name).is_file()), None)


@pytest.mark.skipif(_polish_font() is None, reason="no font with Polish letters here")
async def test_polish_letters_are_read_right(read) -> None:
    text = (
        "Wisła jest najdłuższą rzeką w Polsce i płynie do Morza Bałtyckiego.",
        "Pchnąć w tę łódź jeża lub ośm skrzyń fig. Zażółć gęślą jaźń.",
        "Kraków, Łódź, Gdańsk, Poznań, Wrocław, Toruń, Częstochowa, Rzeszów.",
    )
    picture = Image.new("RGB", (1654, 600), "white")
    font = ImageFont.truetype(_polish_font() or "", 31)
    for number, line in enumerate(text):
        ImageDraw.Draw(picture).text((150, 150 + 50 * number), line, font=font, fill="black")
    page = await read(papers.saved("PNG", papers.worn(picture)))
    assert papers.wrong_share(" ".join(text), page["markdown"]) <= MOST_WRONG


def test_the_measure_counts_what_is_wrong() -> None:
    assert papers.wrong_share("abcd", "abcd") == 0
    assert papers.wrong_share("abcd", "abxd") == 0.25
    assert papers.wrong_share("abcd", "acd") == 0.25
