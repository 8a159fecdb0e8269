"""Which language a text is in, and which language an answer should be in."""

import asyncio
from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from worker.errors import InvalidTask

#: ISO 639 code → English name. Detection chooses among these: with py3langid's 140 labels, dialects and
#: small languages win short texts from the languages they resemble.
NAMES: dict[str, str] = {
    "af": "Afrikaans", "ar": "Arabic", "az": "Azerbaijani", "be": "Belarusian", "bg": "Bulgarian",
    "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek",
    "en": "English", "es": "Spanish", "et": "Estonian", "eu": "Basque", "fa": "Persian", "fi": "Finnish",
    "fr": "French", "ga": "Irish", "gl": "Galician", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian",
    "hu": "Hungarian", "hy": "Armenian", "id": "Indonesian", "is": "Icelandic", "it": "Italian",
    "ja": "Japanese", "ka": "Georgian", "kk": "Kazakh", "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian",
    "mk": "Macedonian", "ms": "Malay", "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese",
    "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovenian", "sq": "Albanian", "sr": "Serbian",
    "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "te": "Telugu", "th": "Thai", "tl": "Tagalog",
    "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip

FALLBACK = "en"

#: Below this probability (0 to 1) a guess is no better than the fallback; measured on one-line requests.
_SURE = 0.5

_SAMPLE_CHARS = 2000


async def language_of(requested: str, text: str) -> str:
    """The language to answer in.

    Args:
        requested: an ISO 639 code, or "auto" for the language of the text.
        text: what is looked at when "auto".

    Raises:
        InvalidTask: the code is not one we know.
    """
    if requested == "auto":
        await asyncio.to_thread(_identifier)  # reading the model takes most of a second, once
        return detect(text)
    if requested not in NAMES:
        raise InvalidTask(f"`language`: {requested!r} is not known; use auto or one of {', '.join(NAMES)}.")
    return requested


def detect(text: str) -> str:
    """The ISO 639 code of a text's language; "en" where the text is too short or too mixed to tell.

    Of a long text the beginning and the middle are looked at.
    """
    middle = max(_SAMPLE_CHARS, len(text) // 2)
    code, probability = _identifier().classify(text[:_SAMPLE_CHARS] + text[middle : middle + _SAMPLE_CHARS])
    return str(code) if probability >= _SURE else FALLBACK


@cache
def _identifier() -> LanguageIdentifier:
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(list(NAMES))
    return identifier
