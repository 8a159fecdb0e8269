"""XML that others have written: no entities, nothing from elsewhere, not too deep, not too much."""

from collections.abc import Iterator
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from worker.diagrams.graph import NotUnderstood

MOST_DEPTH, MOST_ELEMENTS = 100, 200_000


class _Bounded(TreeBuilder):
    """A tree of limited depth and size."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = self._count = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        self._depth += 1
        self._count += 1
        if self._depth > MOST_DEPTH or self._count > MOST_ELEMENTS:
            raise NotUnderstood(
                f"its XML has more than {MOST_ELEMENTS:,} elements, or more than {MOST_DEPTH} in each other"
            )
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> Element:
        self._depth -= 1
        return super().end(tag)


def read_xml(data: bytes) -> Element:
    """The root of an XML document.

    Raises:
        NotUnderstood: it is not well-formed, defines entities or a document type, or is too deep.
    """
    parser = DefusedXMLParser(target=_Bounded(), forbid_dtd=False, forbid_entities=True, forbid_external=True)
    try:
        parser.feed(data)
        root: Element = parser.close()
    except ParseError as error:
        raise NotUnderstood(f"it is not well-formed XML ({error.msg})", error.position[0]) from None
    except DefusedXmlException:
        raise NotUnderstood("its XML defines entities or refers to other documents") from None
    except (LookupError, ValueError) as error:
        raise NotUnderstood(f"its XML cannot be decoded ({error})") from None
    return root


def local(element: Element) -> str:
    """An element's name without its namespace."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def children(element: Element, *names: str) -> Iterator[Element]:
    """Its children of these names; of any name where none is given."""
    return (child for child in element if not names or local(child) in names)
