"""What was found on posters as linked data: RDF in Turtle, in the terms of schema.org."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from worker.contracts.base import Json
from worker.contracts.image import CATEGORIES
from worker.errors import LocalError
from worker.storage.files import write_whole

if TYPE_CHECKING:
    from rdflib import URIRef

#: Terms of our own, one a category of tags.
TERMS = "urn:kc-worker:poster:"


def write_turtle(found: Iterable[Path], target: Path) -> int:
    """Write what the files of posters say as Turtle; how many there are. Blocking.

    A poster is its page, or `urn:kc-worker:poster:ID` where it has none: a schema:VisualArtwork with a name,
    abstract and description in its language, and its tags, in all categories as schema:keywords, and in each
    as a property of ours.

    Raises:
        LocalError: rdflib is not installed, or the file cannot be written.
    """
    try:
        from rdflib import RDF, SDO, Graph, Literal, Namespace
    except ImportError:
        raise LocalError("Turtle needs rdflib: pip install 'kc-worker[rdf]'.") from None
    terms, graph, count = Namespace(TERMS), Graph(), 0
    graph.bind("schema", SDO)
    graph.bind("poster", terms)
    for path in found:
        said = json.loads(path.read_text())
        item, language = said["item"], said["language"]
        poster = _subject(said)
        graph.add((poster, RDF.type, SDO.VisualArtwork))
        graph.add((poster, SDO.identifier, Literal(said["id"])))
        for name, value in (("name", item.get("title")), ("dateCreated", item.get("year"))):
            if value not in (None, ""):
                graph.add((poster, SDO[name], Literal(str(value))))
        if image := _address(item.get("imageUrl")):
            graph.add((poster, SDO.image, image))
        graph.add((poster, SDO.abstract, Literal(said["simple_description"], lang=language)))
        graph.add((poster, SDO.description, Literal(said["research_description"], lang=language)))
        for category in CATEGORIES:
            for tag in said["tags"][category]:
                graph.add((poster, SDO.keywords, Literal(tag, lang=language)))
                graph.add((poster, terms[category], Literal(tag, lang=language)))
        count += 1
    try:
        write_whole(target, graph.serialize(format="turtle"))
    except OSError as error:
        raise LocalError(f"{target} cannot be written: {error.strerror}.") from None
    return count


def _subject(said: Json) -> "URIRef":
    from rdflib import URIRef

    return _address(said["item"].get("pageUrl")) or URIRef(TERMS + quote(said["id"], safe=""))


def _address(value: object) -> "URIRef | None":
    """An address as an IRI, what may not be in one escaped; None where it is no address on the web."""
    from rdflib import URIRef

    try:
        if not isinstance(value, str) or urlsplit(value).scheme not in {"http", "https"}:
            return None
    except ValueError:
        return None
    return URIRef(quote(value, safe=":/?#[]@!$&'()*+,;=%-._~"))
