"""API keys: who calls, and how much he may.

A key is 32 random bytes. What is kept of it is its SHA-256: of something so random no slower hash is needed.

    NAME:sha256:HEX[:requests=N][:tokens=N][:in_flight=N]
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from worker.delivery.sending import Limits
from worker.errors import SettingsError

#: Who calls where no keys are asked for.
ANYBODY = "anybody"

_PREFIX = "kc-"
_LIMITS = {"requests": "requests_per_minute", "tokens": "tokens_per_minute", "in_flight": "in_flight"}
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    Attributes:
        name: owns what it sends.
        limits: how much that may be.
    """

    name: str
    limits: Limits = Limits()  # noqa: RUF009 - frozen


class KeyRing:
    """The keys of GATEWAY_API_KEYS.

    Args:
        setting: as the module's docstring says, comma-separated; "" or "none": no keys.

    Raises:
        SettingsError: an entry cannot be read.
    """

    def __init__(self, setting: str) -> None:
        self._callers: dict[bytes, Caller] = {}
        if setting.strip().lower() in {"", "none"}:
            return
        for entry in setting.split(","):
            digest, caller = _read(entry.strip())
            self._callers[digest] = caller

    @property
    def asks(self) -> bool:
        """Whether callers need a key."""
        return bool(self._callers)

    def caller(self, key: str) -> Caller | None:
        """Whose key this is; the same time for every key, right or wrong."""
        digest = hashlib.sha256(key.encode()).digest()
        found = None
        for known, caller in self._callers.items():
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def new_key(name: str, limits: Limits) -> tuple[str, str]:
    """A new key, and its entry for GATEWAY_API_KEYS.

    Raises:
        ValueError: the name has other characters than letters, digits, `_`, `.` and `-`.
    """
    if not _NAME.fullmatch(name):
        raise ValueError("a name has up to 64 letters, digits, `_`, `.` and `-`")
    key = _PREFIX + secrets.token_urlsafe(32)
    entry = f"{name}:sha256:{hashlib.sha256(key.encode()).hexdigest()}"
    given = {short: getattr(limits, attribute) for short, attribute in _LIMITS.items()}
    return key, entry + "".join(f":{short}={value}" for short, value in given.items() if value)


def _read(entry: str) -> tuple[bytes, Caller]:
    name, *rest = entry.split(":")
    if len(rest) < 2 or rest[0] != "sha256" or not _HEX.fullmatch(rest[1]) or not _NAME.fullmatch(name):
        raise SettingsError(
            f"GATEWAY_API_KEYS: the entry of {name[:64]!r} is not NAME:sha256:HEX. Make one with "
            "`kc-worker gateway key NAME`."
        )
    limits = {}
    for part in rest[2:]:
        short, _, value = part.partition("=")
        if short not in _LIMITS or not value.isdigit():
            raise SettingsError(
                f"GATEWAY_API_KEYS: {part!r} of {name!r} is not requests=N, tokens=N or in_flight=N."
            )
        limits[_LIMITS[short]] = int(value)
    return bytes.fromhex(rest[1]), Caller(name, Limits(**limits))
