"""One piece of work asked for by several tasks is done by one of them; the others get its result.

Idempotency keys and shared identical requests are the same thing under different names.
"""

import asyncio
import hashlib
import json
from typing import Any

from worker.delivery.ledger import Ledger, persist
from worker.errors import InvalidTask

#: Seconds between looks at a task that is at it: doubling up to the most.
_LOOK_S, _MOST_LOOK_S = 0.05, 1.0


def fingerprint(*parts: Any) -> str:
    """A hash of JSON values; equal for equal values."""
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()


async def first_result(ledger: Ledger, name: str, task_id: str, asked: str, ttl_s: int) -> Any:
    """The result of the task that does this work, waited for; None: it is ours to do.

    Args:
        ledger: where it is known who does what.
        name: of the work, for example an idempotency key.
        task_id: who asks.
        asked: fingerprint of what is asked.
        ttl_s: seconds the name is kept.

    Raises:
        InvalidTask: the name was used for something else.
    """
    look_s = _LOOK_S
    while True:
        answer, outcome = await persist(lambda: ledger.once(f"kc:once:{name}", task_id, asked, ttl_s))
        if answer == "mine":
            return None
        if answer == "done":
            return json.loads(outcome)["result"]
        if answer == "other":
            raise InvalidTask(
                "`options.idempotency_key` was used for a different task before.", "Use a key of its own."
            )
        await asyncio.sleep(look_s)
        look_s = min(_MOST_LOOK_S, 2 * look_s)
