"""Pictures by their content, within limits, upright and small enough."""

import io
import struct
import zlib

import pytest
from PIL import Image

from worker.documents.pictures import Look, read_picture, what_it_is
from worker.errors import InputTooLarge, InputUnavailable

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def halves(width: int = 40, height: int = 20) -> Image.Image:
    """The left half red, the right half blue."""
    picture = Image.new("RGB", (width, height), "red")
    picture.paste("blue", (width // 2, 0, width, height))
    return picture


def huge_png(width: int, height: int) -> bytes:
    """A PNG that says it is huge; its pixels are not there."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


class TestWhatAModelGets:
    @pytest.mark.parametrize("kind", FORMATS)
    def test_every_format_by_its_content(self, kind: str) -> None:
        picture = read_picture(encoded(halves(), kind), "it", Look())
        assert (picture.format, picture.width, picture.height, picture.original) == (kind, 40, 20, (40, 20))
        left, right = decoded(picture.data).getpixel((5, 10)), decoded(picture.data).getpixel((35, 10))
        assert (left[0] > 200, left[2] < 60) == (True, True)
        assert (right[2] > 200, right[0] < 60) == (True, True)
        assert Image.MIME[decoded(picture.data).format] == picture.media_type

    def test_no_longer_than_the_model_looks_at(self) -> None:
        picture = read_picture(encoded(halves(3000, 1000), "JPEG"), "it", Look(longest_side=512))
        assert (picture.width, picture.height, picture.original) == (512, 171, (3000, 1000))

    def test_a_small_one_is_not_blown_up(self) -> None:
        assert read_picture(encoded(halves()), "it", Look(longest_side=512)).width == 40

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_photographs_stand_upright(self, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(halves(400, 200), "JPEG", exif=exif.tobytes())
        picture = read_picture(data, "it", Look(longest_side=100))
        assert (picture.width, picture.height) == ((100, 50) if orientation < 5 else (50, 100))
        assert picture.original == ((400, 200) if orientation < 5 else (200, 400))
        red = {
            1: (10, 25),
            2: (90, 25),
            3: (90, 25),
            4: (10, 25),
            5: (25, 10),
            6: (25, 10),
            7: (25, 90),
            8: (25, 90),
        }
        assert decoded(picture.data).getpixel(red[orientation])[0] > 200
        assert not decoded(picture.data).getexif()

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
    def test_what_is_transparent_is_white(self, mode: str) -> None:
        clear = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
        data = encoded(clear.convert(mode), "PNG", **({"transparency": 0} if mode == "P" else {}))
        assert decoded(read_picture(data, "it", Look()).data).getpixel((5, 5)) == (255, 255, 255)

    @pytest.mark.parametrize("mode", ["1", "L", "I", "I;16", "F", "CMYK", "YCbCr"])
    def test_every_kind_of_colour(self, mode: str) -> None:
        source = (
            Image.new("L", (8, 8), 0).convert("I").convert("I;16")
            if mode == "I;16"
            else Image.new(mode, (8, 8))
        )
        picture = read_picture(encoded(source, "TIFF"), "it", Look())
        assert decoded(picture.data).mode == "RGB"

    def test_of_several_frames_the_first(self) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert decoded(read_picture(data, "it", Look()).data).getpixel((4, 4))[0] > 200


class TestWhatIsRefused:
    @pytest.mark.parametrize("size", [(20_000, 20_000), (1, 60_000_000), (2**31 - 1, 2**31 - 1)])
    def test_huge_ones_are_not_unpacked(self, size: tuple[int, int]) -> None:
        with pytest.raises((InputTooLarge, InputUnavailable), match=r"it has|broken"):
            read_picture(huge_png(*size), "it", Look())

    def test_the_limit_is_named(self) -> None:
        with pytest.raises(
            InputTooLarge, match=r"20,000 x 20,000 pixels, the limit is 50,000,000.*MAX_IMAGE_PIXELS"
        ):
            read_picture(huge_png(20_000, 20_000), "it", Look())

    @pytest.mark.parametrize(
        ("data", "what"),
        [
            (b"", "empty"),
            (b"<!DOCTYPE html><title>404</title>", "a web page"),
            (b"%PDF-1.7", "a PDF"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
            (b'{"a": 1}', "JSON"),
            (b"hello", "something else"),
        ],
    )
    def test_what_is_no_picture_is_named(self, data: bytes, what: str) -> None:
        assert what_it_is(data) == what
        with pytest.raises(InputUnavailable, match=what):
            read_picture(data, "it", Look())

    @pytest.mark.parametrize("kind", FORMATS)
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    def test_broken_ones(self, kind: str, share: float) -> None:
        whole = encoded(Image.effect_noise((200, 200), 90).convert("RGB"), kind)
        with pytest.raises(InputUnavailable, match="it is"):
            read_picture(whole[: int(len(whole) * share)], "it", Look())
