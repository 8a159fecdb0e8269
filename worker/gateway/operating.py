"""For operators and balancers: health, metrics, and whether there is room."""

import asyncio
from collections import Counter
from typing import Any, Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from redis.exceptions import RedisError

from worker import __version__
from worker.contracts.base import Json
from worker.delivery.truth import Truth, WorkerTruth, look, show
from worker.gateway.answers import documented
from worker.gateway.desk import CallerOf, Desk, DeskOf
from worker.gateway.documents import able, ocr_models
from worker.metrics import BATCH_LINES_LEFT, BATCHES

router = APIRouter(tags=["operating"])

#: Seconds Redis has to answer a probe.
PROBE_TIMEOUT_S = 3.0


class Part(BaseModel):
    """Whether one part works."""

    status: Literal["ok", "unavailable"]
    reason: str = ""


class OcrPart(Part):
    """Whether scanned documents can be read: models that some worker has, and those that none has."""

    present: list[str]
    missing: list[str]


class Health(BaseModel):
    """Whether tasks that are sent now can be done; `ocr` is about one kind of them and breaks no other."""

    status: Literal["ok", "unavailable"]
    version: str
    redis: Part
    workers: Part
    models: Part
    ocr: OcrPart


class OcrHealth(BaseModel):
    """Whether documents that are sent now can be read; no model server is needed for that."""

    status: Literal["ok", "unavailable"]
    version: str
    redis: Part
    ocr: OcrPart


class Live(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class QueueRoom(BaseModel):
    """One queue."""

    waiting: int
    limit: int | None
    accepting: bool
    oldest_s: float | None


class Capacity(BaseModel):
    """How much there is to do, and whether more is taken.

    `slots`: requests the model servers work on at once, as the live workers have found it.
    """

    accepting: bool
    workers: int
    slots: int
    running: int
    reserved: int
    delayed: int
    queues: dict[str, QueueRoom]


@router.get("/health/live", response_model=Live)
async def live() -> Any:
    """Whether the process answers; restart it otherwise."""
    return {}


@router.get("/health/ready", response_model=Health, responses={503: {"model": Health}})
@router.get("/health", response_model=Health, responses={503: {"model": Health}})
async def health(desk: DeskOf, response: Response) -> Any:
    """Overall and per part; 503 where a task sent now would have to wait for something to be repaired."""
    found, reason = await _look(desk)
    workers = [] if found is None else found.workers
    parts = {
        "redis": reason,
        "workers": "" if workers else "No worker is alive.",
        "models": "" if any(worker.slots for worker in workers) else "No worker has a ready model server.",
    }
    broken = any(parts.values())
    response.status_code = 503 if broken else 200
    return {
        "status": "unavailable" if broken else "ok",
        "version": __version__,
        **{name: {"status": "unavailable" if why else "ok", "reason": why} for name, why in parts.items()},
        "ocr": _ocr(workers),
    }


@router.get("/ocr/health", response_model=OcrHealth, responses={503: {"model": OcrHealth}})
async def ocr_health(desk: DeskOf, response: Response) -> Any:
    """Whether documents can be read: Redis, and the OCR models of the live workers; 503 where not."""
    found, reason = await _look(desk)
    redis = {"status": "unavailable" if reason else "ok", "reason": reason}
    parts = {"redis": redis, "ocr": _ocr([] if found is None else found.workers)}
    broken = any(part["status"] != "ok" for part in parts.values())
    response.status_code = 503 if broken else 200
    return {"status": "unavailable" if broken else "ok", "version": __version__, **parts}


def _ocr(workers: list[WorkerTruth]) -> Json:
    present, missing = ocr_models(workers)
    reason = "" if able(workers) else "No live worker reads documents."
    if not reason and (missing or not present):
        names = ", ".join(missing)
        reason = f"No live worker has the OCR models {names}: pip install 'kc-worker[ocr]'."
    return {
        "status": "unavailable" if reason else "ok", "reason": reason, "present": present, "missing": missing,
    }  # fmt: skip


@router.get("/v1/capacity", response_model=Capacity, responses=documented())
async def capacity(desk: DeskOf, _caller: CallerOf) -> Any:
    """Whether there is room, before something is sent in vain."""
    found = await look(desk.client)
    most = desk.sender.most_waiting
    queues = {
        queue.name: {
            "waiting": queue.waiting,
            "limit": most or None,
            "accepting": not most or queue.waiting < most,
            "oldest_s": queue.oldest_s,
        }
        for queue in found.queues
    }
    return {
        "accepting": all(queue["accepting"] for queue in queues.values()),
        "workers": len(found.workers),
        "slots": sum(worker.slots for worker in found.workers),
        "running": found.running,
        "reserved": found.reserved,
        "delayed": found.delayed,
        "queues": queues,
    }


@router.get("/metrics", response_class=Response)
async def metrics(desk: DeskOf) -> Response:
    """Prometheus: the gateway's own, and what Redis knows of the queues."""
    found, _ = await _look(desk)
    show(found)
    await asyncio.to_thread(_show_batches, desk)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _show_batches(desk: Desk) -> None:
    by_status, left = Counter[str](), 0
    for record in desk.records.unended_records():
        by_status[record.status] += 1
        left += max(0, record.total - record.completed - record.failed)
    BATCHES.clear()
    for status, count in by_status.items():
        BATCHES.labels(status).set(count)
    BATCH_LINES_LEFT.set(left)


async def _look(desk: Desk) -> tuple[Truth | None, str]:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            return await look(desk.client), ""
    except TimeoutError:
        return None, f"Redis does not answer within {PROBE_TIMEOUT_S:g} s."
    except (RedisError, OSError) as error:
        return None, f"Redis cannot be used: {error}."
