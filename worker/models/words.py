"""How sizes and wrong files are put into words."""

import json

from worker.errors import ModelError

#: How many bytes of a file `recognise` wants to see.
HEAD_BYTES = 512

_JSON_MAX_BYTES = 16 * 1024 * 1024


def size_text(size_bytes: float) -> str:
    """`size_bytes` for people: "512 B", "98.2 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size_bytes) < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def count_text(count: int) -> str:
    """`count` for people: "135 M", "7.2 B"."""
    if count < 1000:
        return str(count)
    for limit, divisor, unit in ((10**6, 10**3, "K"), (10**9, 10**6, "M"), (10**12, 10**9, "B")):
        if count < limit:
            scaled = count / divisor
            return f"{scaled:.0f} {unit}" if scaled >= 100 else f"{scaled:.3g} {unit}"
    return f"{count / 10**12:.3g} T"


_TEXTS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    (
        (b"version https://git-lfs",),
        "is a git-lfs pointer, not the file itself; get that with `git lfs pull` or `kc-worker models pull`",
    ),
    (
        (b"<!doctype", b"<html", b"<head", b"<?xml"),
        "is a web page (HTML), probably a login or error page saved by a browser or a download script",
    ),
    ((b"{", b"["), "is a JSON text"),
)
_MAGICS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"GGUF",), "is a GGUF file"),
    (
        (b"ggml", b"lmgg", b"tjgg", b"ggjt", b"fmgg", b"ggmf"),
        "is in the old GGML format from before GGUF",
    ),
    ((b"PK\x03\x04", b"\x80\x02", b"\x80\x04"), "is a PyTorch checkpoint or another archive"),
    ((b"\x1f\x8b", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"), "is compressed; unpack it first"),
)


def recognise(head: bytes) -> str | None:
    """What a file that should be a model really is, as the rest of a sentence, from its first `HEAD_BYTES`.

    Returns:
        None where nothing familiar is seen.
    """
    if not head:
        return "is empty"
    if not any(head):
        return "begins with zeros only, as after a download or copy that was cut off"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    seen = [what for starts, what in _TEXTS if text.startswith(starts)]
    seen += [what for starts, what in _MAGICS if head.startswith(starts)]
    if head[8:9] == b"{" and not seen:
        return "is a safetensors file"
    return seen[0] if seen else None


def truncated_text(name: str, missing_bytes: int, needed_bytes: int) -> str:
    """That the end of the file `name` is missing."""
    missing = f"{size_text(missing_bytes)} of {size_text(needed_bytes)} are missing"
    return f"{name} is truncated: {missing}. Pull it again with `kc-worker models pull`."


def parse_object(raw: bytes, name: str) -> dict[str, object]:
    """JSON that has to be an object.

    Args:
        raw: the bytes of the document.
        name: what it is called in messages.

    Raises:
        ModelError: too large, not JSON, or not an object.
    """
    if len(raw) > _JSON_MAX_BYTES:
        raise ModelError(f"{name} has {size_text(len(raw))}, which is no configuration.")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        seen = recognise(raw[:HEAD_BYTES])
        what = seen if seen and "JSON" not in seen else f"is not valid JSON ({error})"
        raise ModelError(f"{name} {what}.") from error
    if not isinstance(document, dict):
        raise ModelError(f"{name} holds a JSON {type(document).__name__} where an object belongs.")
    return document
