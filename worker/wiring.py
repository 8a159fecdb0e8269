"""The one place where settings become objects."""

import asyncio
import atexit
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker import machine
from worker.backends.base import Backend, BackendOptions, Json
from worker.backends.registry import create_backend
from worker.delivery.deliveries import Deliveries, DeliveryOptions
from worker.documents.ocr import models
from worker.documents.pictures import Look
from worker.documents.readers import Readers
from worker.settings import Settings, settings
from worker.storage.blobs import Blobs
from worker.storage.fetching import Allowed, Fetcher
from worker.storage.inputs import Inputs
from worker.storage.texts import Texts

if TYPE_CHECKING:
    from worker.database.engine import Database
    from worker.tools import Tools

#: A process holds this many tasks for each request its servers take at once, and so many more.
LOOK_AHEAD, SPARE_TASKS = 1.5, 4
#: Tasks a process holds while no server is ready.
PARKED = 16
#: CPUs for each process that reads pages, the most of those, bytes of addresses each may use, and of memory
#: it takes once it has read a scanned page.
_CPUS_A_READER, _MOST_READERS, _READER_BYTES, _READER_MEMORY_BYTES = 4, 4, 4 * 2**30, 900 * 10**6


def build_backend(chosen: Settings) -> Backend:
    """The model servers of LLM_SERVER_URL; for one event loop."""
    group = chosen.backend
    return create_backend(
        group.llm_backend,
        BackendOptions(
            urls=group.llm_server_url,
            api_key=group.llm_api_key.get_secret_value(),
            model=group.llm_model,
            timeout_s=group.llm_timeout,
            max_concurrency=None if group.llm_max_concurrency == "auto" else group.llm_max_concurrency,
            pool_size=chosen.worker.worker_concurrency,
        ),
    )


def build_texts(chosen: Settings) -> Texts:
    """Where texts by reference are kept and read; for one event loop."""
    group = chosen.storage
    fetcher = Fetcher(Allowed.of(group.fetch_allow), group.fetch_timeout_s)
    inputs = Inputs(Blobs(group.blob_dir), group.input_dirs, fetcher, group.max_input_bytes)
    return Texts(inputs, group.max_text_bytes)


def build_database(chosen: Settings) -> "Database":
    """What is remembered in SQL.

    Raises:
        SettingsError: DATABASE_URL is not one, or its driver is missing.
    """
    from worker.database.engine import Database  # half a second, which not every command should take

    return Database(chosen.database.database_url.get_secret_value())


def build_readers(chosen: Settings) -> Readers:
    """The processes that read pages, ended with this one; for one event loop."""
    cpus, wanted = machine.cpus(), chosen.documents.ocr_processes
    processes = readers_for(cpus, machine.memory_bytes()) if wanted == "auto" else wanted
    threads = min(_CPUS_A_READER, max(1, cpus // processes))
    readers = Readers(processes, threads, _READER_BYTES, chosen.documents.max_document_pages)
    atexit.register(readers.close)
    return readers


def readers_for(cpus: int, memory_bytes: int) -> int:
    """Processes that do OCR: one for so many CPUs, while all fit in half of the memory."""
    return max(1, min(_MOST_READERS, cpus // _CPUS_A_READER, memory_bytes // 2 // _READER_MEMORY_BYTES))


def build_tools(chosen: Settings) -> "Tools":
    """What tasks have at hand; for one event loop."""
    from worker.database.drawings import Drawings
    from worker.database.stories import Stories
    from worker.tools import Tools

    group, database = chosen.storage, build_database(chosen)
    return Tools(
        texts=build_texts(chosen),
        look=Look(group.max_image_pixels, group.image_longest_side),
        readers=build_readers(chosen),
        drawings=Drawings(database),
        stories=Stories(database),
    )


def build_deliveries(
    chosen: Settings, loop: asyncio.AbstractEventLoop, backend: Backend | None, tasks: Sequence[str]
) -> Deliveries:
    """What this process takes from the queues; for a worker's main process.

    Args:
        chosen: the settings.
        loop: where it works.
        backend: whose load it reports and follows; used on the same loop. None where the
            tasks run in other processes.
        tasks: names of those it can do.
    """
    known = {"tasks": tasks, "ocr": models()}

    def report() -> Json:
        if backend is None:
            return known
        load = backend.load()
        return {
            **known,
            "slots": sum(server.limit for server in load),
            "models": sorted({name for server in load for name in server.models}),
            "running": sum(server.in_flight for server in load),
            "at_gate": max((server.waiting for server in load), default=0),
        }

    group = chosen.worker
    options = DeliveryOptions(group.worker_lease_s, group.task_max_deliveries, report)
    deliveries = Deliveries(chosen.redis.address, loop, options)
    if backend is not None:
        _follow_capacity(deliveries, backend, loop)
    return deliveries


def _follow_capacity(deliveries: Deliveries, backend: Backend, loop: asyncio.AbstractEventLoop) -> None:
    """Hold as many tasks as the model servers have use for, and a few for what comes next.

    While no server is ready a few tasks are held all the same: whose deadline passes is told so.
    """

    def follow() -> None:
        capacity = backend.capacity()
        deliveries.capacity(PARKED if capacity == 0 else math.ceil(capacity * LOOK_AHEAD) + SPARE_TASKS)

    def start() -> None:
        backend.on_capacity_change(follow)
        follow()

    loop.call_soon_threadsafe(start)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What all tasks of one process share."""

    settings: Settings
    backend: Backend
    tools: "Tools"


_runtimes: dict[int, Runtime] = {}


def runtime() -> Runtime:
    """This process's runtime; made when first asked for, so that a forked child makes its own."""
    pid = os.getpid()
    if pid not in _runtimes:
        chosen = settings()
        _runtimes[pid] = Runtime(chosen, build_backend(chosen), build_tools(chosen))
    return _runtimes[pid]
