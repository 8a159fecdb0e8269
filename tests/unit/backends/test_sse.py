import json

from hypothesis import given
from hypothesis import strategies as st

from worker.backends.sse import EventParser


def parse(pieces: list[bytes]) -> list[str]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)] + parser.close()


@st.composite
def streams_in_pieces(draw: st.DrawFn) -> tuple[list[str], list[bytes]]:
    """Events as a server writes them, in any line ending, cut anywhere."""
    ending = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    events = [json.dumps(text, ensure_ascii=False) for text in draw(st.lists(st.text(), max_size=8))]
    written = ""
    for event in events:
        written += draw(st.sampled_from(["", f": ping{ending}{ending}", f"event: x{ending}id: 3{ending}"]))
        written += f"data: {event}{ending}{ending}"
    raw = written.encode("utf-8", "surrogatepass")
    cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=20)))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    return events, pieces


@given(streams_in_pieces())
def test_events_come_out_whole_however_they_are_cut(case: tuple[list[str], list[bytes]]) -> None:
    events, pieces = case
    assert parse(pieces) == events


@given(st.lists(st.binary(max_size=50)))
def test_nothing_a_server_sends_breaks_the_parser(pieces: list[bytes]) -> None:
    assert parse(pieces) == parse([b"".join(pieces)])


def test_an_event_is_given_as_soon_as_its_blank_line_is_there() -> None:
    parser = EventParser()
    assert parser.feed(b"data: {}\n") == []
    assert parser.feed(b"\ndata: ") == ["{}"]


def test_an_event_may_span_several_data_lines() -> None:
    assert parse([b"data: a\ndata: b\n\n"]) == ["a\nb"]


def test_a_last_event_without_its_blank_line_counts() -> None:
    assert parse([b"data: [DONE]"]) == ["[DONE]"]


def test_a_byte_order_mark_and_a_missing_space_are_tolerated() -> None:
    assert parse([b"\xef\xbb\xbfdata:x\n\n"]) == ["x"]


def test_a_long_line_in_many_pieces_is_joined_once() -> None:
    pieces = [b"data: ", *[b"x" * 1000] * 5000, b"\n\n"]
    assert len(parse(pieces)[0]) == 5_000_000
