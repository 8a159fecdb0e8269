"""The language of an answer is the one asked for, else that of the text."""

import pytest

from worker.errors import InvalidTask
from worker.tasks.language import detect, language_of

SENTENCES = {
    "en": "The quarterly report shows that revenue rose.",
    "pl": "Zakład wytwarza butelki dla browarów w kraju i za granicą.",
    "de": "Die Fabrik stellt jeden Tag vierzigtausend Flaschen her.",
    "fr": "L'usine fabrique quarante mille bouteilles par jour.",
    "es": "La fábrica produce cuarenta mil botellas cada día.",
    "it": "La fabbrica produce quarantamila bottiglie al giorno.",
    "pt": "A fábrica não produz garrafas aos domingos, disse o diretor.",
    "uk": "Завод щодня виробляє сорок тисяч пляшок для пивоварень.",
    "ru": "Завод каждый день выпускает сорок тысяч бутылок для пивоварен.",
    "cs": "Továrna vyrábí každý den čtyřicet tisíc lahví pro pivovary.",
}


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_is_recognised(code):
    assert detect(SENTENCES[code]) == code


@pytest.mark.parametrize(
    "text", ["", "ok", "Hi", "12345", "OpenAI API", "https://example.com/a?b=c", "\n \n"]
)
def test_a_text_too_short_to_tell_is_english(text):
    assert detect(text) == "en"


def test_a_boilerplate_beginning_does_not_decide_for_a_long_text():
    assert detect("= - = " * 400 + SENTENCES["pl"] * 200) == "pl"


async def test_the_language_asked_for_wins():
    assert await language_of("fr", SENTENCES["pl"]) == "fr"
    assert await language_of("auto", SENTENCES["pl"]) == "pl"


async def test_an_unknown_language_is_refused_with_the_known_ones():
    with pytest.raises(InvalidTask, match=r"`language`: 'xx' is not known; use auto or one of af, .*zh"):
        await language_of("xx", "text")
