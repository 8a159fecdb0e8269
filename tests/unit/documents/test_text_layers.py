"""What a PDF says in letters is taken as it stands; what only seems to is not."""

import io
from pathlib import Path

import pytest
from PIL import Image

from tests import papers
from worker.documents.document import opened
from worker.documents.marks import Box
from worker.documents.pdf import Pdf


def cells(markdown: str) -> list[list[str]]:
    rows = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("|")]
    return [row for row in rows if set("".join(row)) != {"-"}]


async def test_a_page_is_read_exactly(read) -> None:
    page = await read(papers.pdf([papers.lines(60, 80, papers.PROSE)]))
    assert page["markdown"] == " ".join(papers.PROSE)
    assert (page["source"], page["confidence"], page["turned"]) == ("text", 1.0, 0)
    assert page["characters"] == len("".join(papers.PROSE).replace(" ", ""))
    assert (page["unit"], page["width"], page["height"]) == ("pt", papers.WIDTH, papers.HEIGHT)
    assert [line["text"] for line in page["lines"]] == list(papers.PROSE)


async def test_polish_letters_are_read_exactly(read) -> None:
    text = "Zażółć gęślą jaźń. Pchnąć w tę łódź jeża lub ośm skrzyń fig. Łódź, Żory, Ślesin, Źródła."
    page = await read(papers.pdf([papers.said(60, 80, text)]))
    assert page["markdown"] == text


async def test_boxes_are_points_from_the_upper_left_corner(read) -> None:
    page = await read(papers.pdf([papers.said(100, 200, "Here it stands", 12)]))
    left, top, right, bottom = page["lines"][0]["box"]
    assert left == pytest.approx(100, abs=2)
    assert top < 200 < bottom < 206
    assert 165 < right < 190
    assert page["blocks"][0]["box"] == page["lines"][0]["box"]


@pytest.mark.parametrize(
    ("extra", "corner"),
    [("/Rotate 90", (636, 98)), ("/Rotate 180", (417, 636)), ("/CropBox [50 100 500 800]", (50, 156))],
)
async def test_boxes_are_of_the_page_as_it_is_looked_at(
    read, extra: str, corner: tuple[float, float]
) -> None:
    page = await read(papers.pdf([papers.said(100, 200, "Here it stands", 12)], extra=extra))
    box: Box = tuple(page["lines"][0]["box"])
    assert box[0] == pytest.approx(corner[0], abs=14)
    assert box[1] == pytest.approx(corner[1], abs=14)
    assert 0 <= box[0] < box[2] <= page["width"]
    assert 0 <= box[1] < box[3] <= page["height"]


async def test_a_page_that_is_turned_and_written_on_turned_is_read_level(read) -> None:
    """As programs write landscape pages."""
    turned = b"q 0 1 -1 0 %d 0 cm\n" % papers.WIDTH + papers.lines(300, 500, papers.PROSE[:3]) + b"Q\n"
    page = await read(papers.pdf([turned], extra="/Rotate 90"))
    assert page["markdown"] == " ".join(papers.PROSE[:3])
    assert page["width"] == papers.HEIGHT
    left, top, right, bottom = page["lines"][0]["box"]
    assert right - left > 20 * (bottom - top)


@pytest.mark.parametrize("ruled", [True, False])
async def test_a_table_keeps_its_cells(read, ruled: bool) -> None:
    content = (
        papers.said(60, 80, "Before it.")
        + papers.table(60, 110, ruled=ruled)
        + papers.said(60, 230, "After it.")
    )
    page = await read(papers.pdf([content]))
    assert cells(page["markdown"]) == [list(row) for row in papers.TABLE]
    assert page["markdown"].startswith("Before it.\n\n|")
    assert page["markdown"].endswith("|\n\nAfter it.")
    (block,) = [block for block in page["blocks"] if block["kind"] == "table"]
    assert block["rows"] == [list(row) for row in papers.TABLE]


async def test_cells_that_are_drawn_as_one(read) -> None:
    content = papers.table(60, 100, [("", "", ""), ("a", "b", "c")], ruled=False)
    for y in (100, 120, 140):
        content += papers.rule(60, y, 420, y)
    content += papers.rule(60, 100, 60, 140) + papers.rule(420, 100, 420, 140)
    content += papers.rule(180, 120, 180, 140) + papers.rule(300, 120, 300, 140)
    content += papers.said(200, 114, "over all three")
    page = await read(papers.pdf([content]))
    assert cells(page["markdown"])[1] == ["a", "b", "c"]
    assert page["blocks"][0]["rows"][0] == ["over all three", "", ""]


async def test_empty_cells_and_cells_of_two_lines(read) -> None:
    rows = [("Name", "Note"), ("one", ""), ("two", "first line"), ("three", "x")]
    content = papers.table(60, 100, rows, ruled=True, pitch=34) + papers.said(186, 196, "second line")
    page = await read(papers.pdf([content]))
    assert page["blocks"][0]["rows"] == [
        ["Name", "Note"],
        ["one", ""],
        ["two", "first line second line"],
        ["three", "x"],
    ]


async def test_columns_are_read_one_after_the_other(read) -> None:
    page = await read(papers.pdf([papers.columns()]))
    assert page["markdown"] == "\n\n".join(
        ["# A title above two columns", " ".join(papers.LEFT), " ".join(papers.RIGHT)]
    )


async def test_three_columns_between_what_stands_above_and_below_them(read) -> None:
    content = papers.said(60, 60, "A headline that is as wide as the whole page it stands on, or so", 16)
    for number, x in enumerate((60, 230, 400)):
        content += papers.lines(
            x, 100 + number, [f"column {number + 1} has line {line}" for line in range(1, 9)]
        )
    content += papers.said(240, 260, "- 17 -")
    content += papers.lines(60, 300, papers.PROSE)
    said = (await read(papers.pdf([content])))["markdown"]
    places = [said.index(f"column {number} has line {line}") for number in (1, 2, 3) for line in (1, 8)]
    assert places == sorted(places)
    assert said.index("headline") < places[0]
    assert places[-1] < said.index("17") < said.index(papers.PROSE[0])


async def test_a_page_full_of_numbers_is_one_table(read) -> None:
    rows = [[f"{row}.{column}" for column in range(12)] for row in range(250)]
    content = b"".join(
        papers.said(30 + 45 * column, 20 + 3.2 * row, cell, 3)
        for row, cells_of in enumerate(rows)
        for column, cell in enumerate(cells_of)
    )
    page = await read(papers.pdf([content]))
    assert cells(page["markdown"]) == rows


async def test_headings_items_and_broken_words(read) -> None:
    content = (
        papers.said(60, 60, "A report", 24) + papers.said(60, 100, "1. The first part", 16)
        + papers.lines(60, 130, ["Some of it is about the con-", "fluence of two rivers."])
        + papers.lines(60, 180, ["• one", "• two and more", "1. three"])
        + papers.lines(60, 240, papers.PROSE)
    )  # fmt: skip
    page = await read(papers.pdf([content]))
    assert page["markdown"].split("\n\n") == [
        "# A report", "## 1. The first part", "Some of it is about the confluence of two rivers.",
        "- one\n- two and more\n1. three", " ".join(papers.PROSE),
    ]  # fmt: skip


async def test_what_looks_like_markup_is_not_made_any(read) -> None:
    page = await read(
        papers.pdf(
            [
                papers.said(60, 60, "# 5 of them | and more")
                + papers.table(60, 90, [("a|b", "c"), ("d", "e")], ruled=True)
            ]
        )
    )
    assert page["markdown"].startswith("\\# 5 of them | and more\n\n| a\\|b | c |")


async def test_a_layer_nobody_can_see_is_not_taken(read) -> None:
    """A scan with somebody's OCR behind it, and one with a few stray letters on it."""
    picture = papers.looked_at(papers.pdf([papers.said(60, 100, "What can be seen", 24)]), 100)[0]
    behind = _with_picture(picture, papers.said(60, 100, "What cannot be seen", 24, mode=3))
    stray = _with_picture(picture, papers.said(500, 800, "p 3", 6))
    for document in (behind, stray):
        page = await read(document)
        assert page["source"] == "ocr"
        assert "What can be seen" in page["markdown"]
    assert "What cannot be seen" in (await read(behind, mode="text"))["markdown"]


async def test_letters_without_meaning_are_not_taken(read) -> None:
    junk = papers.pdf([papers.said(60, 100, "(cid:12)(cid:40)(cid:8) (cid:77)(cid:15)")])
    assert (await read(junk))["source"] == "ocr"


async def test_an_empty_page_is_empty(read) -> None:
    page = await read(papers.pdf([b""]))
    assert (page["source"], page["markdown"], page["characters"]) == ("text", "", 0)


@pytest.mark.parametrize("form", [False, True])
async def test_a_scan_with_a_long_stamp_is_a_scan(read, form: bool) -> None:
    """Also where the picture lies in a form that is scaled up to the page."""
    picture = papers.looked_at(papers.pdf([papers.said(60, 100, "What can be seen", 24)]), 100)[0]
    stamp = papers.lines(
        60, 700, ["Certified copy of the original as it was filed with the court on"] * 2, size=8
    )
    page = await read(_with_picture(picture, stamp, form=form))
    assert page["source"] == "ocr"
    assert "What can be seen" in page["markdown"]


async def test_a_page_of_text_on_a_picture_is_taken_at_its_word(read) -> None:
    text = papers.lines(60, 80, papers.PROSE * 4)
    assert (await read(_with_picture(Image.new("RGB", (60, 80), "white"), text)))["source"] == "text"


def test_lines_inside_of_forms_are_where_they_are_seen(tmp_path: Path) -> None:
    half = b"q 0.5 0 0 0.5 0 %d cm /F Do Q\n" % (papers.HEIGHT // 2)
    font = b"/Font << /F1 5 0 R >>"
    document = papers.raw_pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources %s >>"
            % b"<< /XObject << /F 6 0 R >> >>",
            papers.stream("", half),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
            papers.stream(
                f"/Type /XObject /Subtype /Form /BBox [0 0 595 842] /Resources << {font.decode()} >>",
                papers.table(60, 110, ruled=True),
            ),
        ]
    )
    (tmp_path / "a.pdf").write_bytes(document)
    rules = Pdf(tmp_path / "a.pdf", "it", 10**6).text(1).rules
    assert {round(rule.at) for rule in rules if not rule.is_level} == {30, 90, 150, 210}


def _with_picture(picture: Image.Image, content: bytes, *, form: bool = False) -> bytes:
    """A page that a picture covers, and text on it."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    data = buffer.getvalue()
    drawn = (
        b"q %d 0 0 %d 0 0 cm /%s Do Q\n" % (papers.WIDTH, papers.HEIGHT, b"F" if form else b"I1") + content
    )
    return papers.raw_pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %d %d] /Resources << /Font << /F1 5 0 R >> "
            b"/XObject << /I1 6 0 R /F 7 0 R >> >> /Contents 4 0 R >>" % (papers.WIDTH, papers.HEIGHT),
            papers.stream("", drawn),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
            papers.stream(
                f"/Type /XObject /Subtype /Image /Width {picture.width} /Height {picture.height} "
                "/ColorSpace /DeviceRGB /BitsPerComponent 8 /Filter /DCTDecode",
                data,
            ),
            papers.stream(
                "/Type /XObject /Subtype /Form /BBox [0 0 1 1] /Resources << /XObject << /I1 6 0 R >> >>",
                b"/I1 Do",
            ),
        ]
    )


@pytest.mark.parametrize("appearance", [True, False])
async def test_what_is_filled_into_a_form_is_read_and_seen(read, readers, appearance: bool) -> None:
    font = b"/Font << /F1 5 0 R >>"
    filled = papers.raw_pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [6 0 R] /DR << %s >> >> >>" % font,
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << %s >> /Contents 4 0 R "
            b"/Annots [6 0 R] >>" % font,
            papers.stream("", papers.said(60, 142, "Name:", 12)),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
            b"<< /Type /Annot /Subtype /Widget /FT /Tx /T (name) /V (Ada Lovelace) /DA (/F1 12 Tf 0 g) "
            b"/Rect [120 695 300 713] /F 4 /P 3 0 R %s >>" % (b"/AP << /N 7 0 R >>" if appearance else b""),
            papers.stream(
                "/Type /XObject /Subtype /Form /BBox [0 0 180 18] /Resources << /Font << /F1 5 0 R >> >>",
                b"/Tx BMC BT /F1 12 Tf 2 4 Td (Ada Lovelace) Tj ET EMC",
            ),
        ]
    )
    for _ in range(2):
        page = await read(filled)
        assert "Ada Lovelace" in page["markdown"]
        assert page["source"] == "text"
    async with opened(readers, filled, "`document`", 50_000_000) as document:
        sheet = await document.picture(1, 72, 1000)
    field = Image.open(io.BytesIO(sheet.png)).crop((120, 129, 300, 147))
    assert min(field.convert("L").tobytes()) < 100
