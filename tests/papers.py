"""Documents with known text: PDFs written by hand, and scans of them. No font of the machine is needed."""

import io
from collections.abc import Iterable, Sequence

import numpy as np
import pypdfium2
from PIL import Image

WIDTH, HEIGHT = 595, 842

#: Glyphs of letters that WinAnsi lacks, at codes it has for letters nobody writes here.
POLISH = {
    "ą": "aogonek", "ć": "cacute", "ę": "eogonek", "ł": "lslash", "ń": "nacute", "ś": "sacute", "ź": "zacute",
    "ż": "zdotaccent", "Ł": "Lslash", "Ś": "Sacute", "Ż": "Zdotaccent", "Ź": "Zacute",
}  # fmt: skip
_CODES = {char: 0xC0 + number for number, char in enumerate(POLISH)}
_DIFFERENCES = f"[ 192 {' '.join(f'/{name}' for name in POLISH.values())} ]"

PROSE = (
    "The river rises in the hills and runs north for two hundred kilometres before it",
    "meets the sea. Its upper course is narrow and quick, and the valley it has cut is",
    "steep on both sides. Lower down it is slow and wide, and in winter it floods the",
    "fields between Milton and the Old Quay. Order 48213 was shipped on 14 March 2024",
    "for 1,250.75 EUR, to M. O'Brien & Sons (Ltd.), 7 High Street; tel. +44 20 7946 0018.",
)
TABLE = (
    ("River", "Length", "Source"),
    ("Alder", "212 km", "Grey Hill"),
    ("Birch", "98 km", "Lake Moor"),
    ("Cedar", "145 km", "Stone Pass"),
)
LEFT = (
    "When the town was founded the", "harbour lay where the market is", "now, and the church stood on an",
    "island that could be reached by", "boat alone. The channel silted", "up within a century and more.",
)  # fmt: skip
RIGHT = (
    "Trade went to other places all", "the same, as the great ships of", "the time drew more water than",
    "the river had. What was left was", "the fishing, and the building of", "boats for those who went out.",
)  # fmt: skip


def said(x: float, y: float, text: str, size: float = 11, *, mode: int = 0) -> bytes:
    """A line of text, its baseline `y` points from the top; `mode` 3 is invisible."""
    codes = b"".join(bytes([_CODES[char]]) if char in _CODES else char.encode("cp1252") for char in text)
    for special in (b"\\", b"(", b")"):
        codes = codes.replace(special, b"\\" + special)
    return b"BT /F1 %g Tf %d Tr %g %g Td (%s) Tj ET\n" % (size, mode, x, HEIGHT - y, codes)


def lines(x: float, y: float, texts: Iterable[str], size: float = 11, pitch: float = 14) -> bytes:
    """Lines below each other."""
    return b"".join(said(x, y + number * pitch, text, size) for number, text in enumerate(texts))


def rule(x0: float, y0: float, x1: float, y1: float) -> bytes:
    """A straight line."""
    return b"%g %g m %g %g l S\n" % (x0, HEIGHT - y0, x1, HEIGHT - y1)


def table(
    x: float,
    y: float,
    rows: Sequence[Sequence[str]] = TABLE,
    *,
    ruled: bool,
    width: float = 120,
    pitch: float = 20,
) -> bytes:
    """A table, with lines around its cells or without."""
    drawn = b"".join(
        said(x + 6 + column * width, y + 14 + row * pitch, text)
        for row, cells in enumerate(rows)
        for column, text in enumerate(cells)
    )
    if ruled:
        right, bottom = x + width * len(rows[0]), y + pitch * len(rows)
        drawn += b"".join(rule(x, y + row * pitch, right, y + row * pitch) for row in range(len(rows) + 1))
        drawn += b"".join(
            rule(x + column * width, y, x + column * width, bottom) for column in range(len(rows[0]) + 1)
        )
    return drawn


def columns(y: float = 110, pitch: float = 15) -> bytes:
    """Two columns below a title that stands above both."""
    return (
        said(150, 60, "A title above two columns", 22)
        + lines(60, y, LEFT, pitch=pitch)
        + lines(320, y + 3, RIGHT, pitch=pitch)
    )


def pdf(
    pages: Sequence[bytes],
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    extra: str = "",
    encrypted: bool = False,
) -> bytes:
    """A PDF of content streams; `extra` is added to each page's dictionary."""
    count = len(pages)
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(count))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>".encode(),
        f"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding << /Type /Encoding "
        f"/BaseEncoding /WinAnsiEncoding /Differences {_DIFFERENCES} >> >>".encode(),
    ]
    for number, content in enumerate(pages):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {size[0]} {size[1]}] {extra} "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * number} 0 R >>".encode()
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    trailer = f"/Size {len(objects) + 1} /Root 1 0 R"
    if encrypted:  # by a password that nobody knows
        trailer += (
            f" /ID [<{'00' * 16}> <{'00' * 16}>] /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 "
            f"/O <{'11' * 32}> /U <{'22' * 32}> >>"
        )
    out, offsets = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    start = len(out)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table)
    return out + f"trailer << {trailer} >>\nstartxref\n{start}\n%%EOF\n".encode()


def raw_pdf(objects: Sequence[bytes]) -> bytes:
    """A PDF of objects written by hand; the first is the catalogue."""
    out = b"%PDF-1.4\n" + b"".join(b"%d 0 obj\n%s\nendobj\n" % (n, one) for n, one in enumerate(objects, 1))
    return out + b"trailer << /Size %d /Root 1 0 R >>\n%%%%EOF\n" % (len(objects) + 1)


def stream(head: str, content: bytes) -> bytes:
    """A stream as an object of a PDF."""
    return f"<< {head} /Length {len(content)} >>\nstream\n".encode() + content + b"\nendstream"


def looked_at(document: bytes, dpi: int = 200) -> list[Image.Image]:
    """The pages of a PDF as pictures."""
    opened = pypdfium2.PdfDocument(document)
    try:
        return [page.render(scale=dpi / 72).to_pil().convert("RGB") for page in opened]
    finally:
        opened.close()


def worn(picture: Image.Image, angle: float = 2, noise: float = 12, turned: int = 0) -> Image.Image:
    """A picture as a bad scanner has it: askew, noisy, and turned counter-clockwise by 0, 90, 180 or 270."""
    askew = picture.rotate(angle, resample=Image.Resampling.BICUBIC, fillcolor="white")
    grain = np.random.default_rng(7).normal(0, noise, (askew.height, askew.width, 1))
    noisy = Image.fromarray((np.asarray(askew) + grain).clip(0, 255).astype(np.uint8))
    return noisy.rotate(turned, expand=True) if turned else noisy


def pictures_pdf(pictures: Sequence[Image.Image], dpi: int = 200) -> bytes:
    """Pictures as a PDF without a text layer."""
    buffer = io.BytesIO()
    pictures[0].save(buffer, "PDF", save_all=True, append_images=pictures[1:], resolution=dpi, quality=85)
    return buffer.getvalue()


def saved(kind: str, *pictures: Image.Image) -> bytes:
    """A picture as a file of a kind; of several the frames of a TIFF."""
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": pictures[1:]} if kind == "TIFF" else {}
    pictures[0].save(buffer, kind, **more)
    return buffer.getvalue()


def scanned(document: bytes, *, angle: float = 2, noise: float = 12, turned: int = 0) -> bytes:
    """A PDF printed and scanned at 200 dpi."""
    return pictures_pdf([worn(picture, angle, noise, turned) for picture in looked_at(document)])


def wrong_share(expected: str, got: str) -> float:
    """Share of characters that are wrong: Levenshtein's distance to the expected text, blanks as one space."""
    expected, got = " ".join(expected.split()), " ".join(got.split())
    before = list(range(len(got) + 1))
    for row, char in enumerate(expected, 1):
        now = [row]
        for column, other in enumerate(got, 1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (char != other)))
        before = now
    return before[-1] / max(len(expected), 1)
