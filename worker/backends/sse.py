"""Server-sent events, from bytes as they arrive to the `data` of each event.

A read may hold half an event, several, or half a UTF-8 character: a line is decoded once it is whole.
Follows the event stream grammar of the HTML standard, "parsing an event stream".
"""


class EventParser:
    """Feed it bytes in any pieces; it gives back each event's data once.

    Lines that are not `data:` (comments used as keep-alive, `event:`, `id:`, `retry:`) carry nothing we use.
    """

    def __init__(self) -> None:
        self._partial: list[bytes] = []  # of one unfinished line; joined once, when its end arrives
        self._data: list[str] = []
        self._first_line = True

    def feed(self, piece: bytes) -> list[str]:
        """The data of every event that `piece` completes."""
        held_back = bool(self._partial) and self._partial[-1].endswith(
            b"\r"
        )  # LF may follow: this byte decides
        if not held_back and b"\n" not in piece and b"\r" not in piece:
            self._partial.append(piece)
            return []
        lines = b"".join([*self._partial, piece]).splitlines(keepends=True)
        self._partial = [lines.pop()] if lines and not lines[-1].endswith(b"\n") else []
        return self._take(lines)

    def close(self) -> list[str]:
        """The data of an event whose closing blank line never came: some servers leave it out."""
        rest, self._partial = b"".join(self._partial), []
        return self._take([*rest.splitlines(keepends=True), b"\n"])

    def _take(self, lines: list[bytes]) -> list[str]:
        events = []
        for raw in lines:
            line = raw.rstrip(b"\r\n")
            if self._first_line:
                line = line.removeprefix(b"\xef\xbb\xbf")
                self._first_line = False
            if line.startswith(b"data:"):
                value = line[6:] if line.startswith(b"data: ") else line[5:]
                self._data.append(value.decode("utf-8", "replace"))
            elif not line and self._data:
                events.append("\n".join(self._data))
                self._data = []
        return events
