"""What the tour shows to tasks that work on files, made on the spot."""

import io

from PIL import Image, ImageDraw, ImageFont

#: What stands on the scanned page.
PAGE = (
    "Harbour Office",
    "",
    "The ferry to Stroma leaves at 7.40 from the old pier.",
    "Tickets are sold on board. Dogs travel free of charge.",
    "In fog the crossing may be put off by up to two hours.",
)
_PAGE_SIZE, _FONT_SIZE, _TILT_DEGREES, _NOISE = (1240, 620), 36, 1.5, 24

#: How an order is dealt with, as people draw it in their documentation.
FLOWCHART = """\
flowchart TD
  subgraph Customer
    a([Order placed]) --> b[Pay the invoice]
  end
  subgraph Warehouse
    c{In stock?}
    d[Pack the parcel]
    e[Order from the supplier]
  end
  b --> c
  c -->|yes| d
  c -->|no| e
  e --> d
  d --> f([Parcel sent])
"""


def scanned_page() -> bytes:
    """A page as a scanner sees it: a picture of text, a little askew and dirty. PNG."""
    page = Image.new("L", _PAGE_SIZE, 255)
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(PAGE):
        font = ImageFont.load_default(_FONT_SIZE * (1.6 if number == 0 else 1))
        draw.text((90, 90 + 80 * number), line, font=font, fill=20)
    page = page.rotate(_TILT_DEGREES, Image.Resampling.BICUBIC, fillcolor=255)
    dirt = Image.effect_noise(_PAGE_SIZE, _NOISE)
    return _png(Image.blend(page, dirt, 0.15))


def poster() -> bytes:
    """A poster with a red sun over a black sea. PNG."""
    picture = Image.new("RGB", (600, 840), "#f2e6c8")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((150, 160, 450, 460), fill="#c8321e")
    draw.rectangle((0, 480, 600, 700), fill="#16202a")
    draw.text((300, 760), "SUMMER 1966", font=ImageFont.load_default(72), fill="#16202a", anchor="mm")
    return _png(picture)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
