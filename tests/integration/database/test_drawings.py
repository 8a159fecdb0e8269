"""Requests for diagrams and what was found, on SQLite and on a real PostgreSQL."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from worker.database.backup import backup, restore
from worker.database.drawings import Drawings, Found, Request, sweep
from worker.database.engine import Database

ASKED = Request(
    task="t1", owner="ann", file_name="a.png", file_type="png", file_hash="aa", file_bytes=5_000_000_000, model="m",
    adapter="", prompt_version="p", cached=False, seconds=2.0, steps=3, outcome="success", error="", result="k",
)  # fmt: skip


@pytest.fixture
def drawings(database_url: str) -> Iterator[Drawings]:
    database = Database(database_url)
    yield Drawings(database)
    database.close()


async def test_a_task_is_one_request_however_often_it_is_delivered(drawings: Drawings) -> None:
    await drawings.log(replace(ASKED, outcome="BackendUnavailable", error="x" * 5000, steps=0))
    await asyncio.gather(*(drawings.log(replace(ASKED, file_name="ż" * 300)) for _ in range(8)))
    (row,) = await drawings.recent("ann", 10)
    assert (row["outcome"], row["steps"], row["file_name"], row["error"]) == ("success", 3, "ż" * 255, "")
    assert row["file_bytes"] == 5_000_000_000
    assert row["date"].tzinfo is not None


async def test_requests_are_counted_for_their_owner_alone(drawings: Drawings) -> None:
    await drawings.log(ASKED)
    await drawings.log(replace(ASKED, task="t2", cached=True, seconds=0.0))
    await drawings.log(replace(ASKED, task="t3", file_type="pdf", model="n", outcome="OutputInvalid"))
    await drawings.log(replace(ASKED, task="t4", owner="bob"))
    found = await drawings.statistics("ann", 30)
    assert found["total"] == {"requests": 3, "cached": 1, "errors": 1, "mean_seconds": pytest.approx(4 / 3)}
    assert {row["file_type"]: row["requests"] for row in found["file_type"]} == {"png": 2, "pdf": 1}
    assert {row["model"]: row["requests"] for row in found["model"]} == {"m": 2, "n": 1}
    assert {row["outcome"]: row["requests"] for row in found["outcome"]} == {"success": 2, "OutputInvalid": 1}
    assert [row["requests"] for row in found["day"]] == [3]
    assert [row["task"] for row in await drawings.recent("ann", 2)] == ["t3", "t2"]
    assert await drawings.recent("ann", 10, "bb") == []
    nobody = await drawings.statistics("nobody", 30)
    assert nobody["total"]["requests"] == 0


async def test_what_is_found_first_stays(drawings: Drawings) -> None:
    first = Found([{"number": 1, "action": "zażółć"}], {"model": "m"})
    assert await drawings.find("k") is None
    await drawings.keep("k", first)
    await drawings.keep("k", Found([], {}))
    assert await drawings.find("k") == first


async def test_a_backup_has_them(database_url: str, tmp_path: Path) -> None:
    file, urls = (
        tmp_path / "backup.gz",
        [f"sqlite:///{tmp_path}/one.db", database_url, f"sqlite:///{tmp_path}/two.db"],
    )
    databases = [Database(url) for url in urls]
    kept = [Drawings(database) for database in databases]
    await kept[0].log(replace(ASKED, cached=True))
    await kept[0].keep("k", Found([{"action": "zażółć"}], {"model": "m"}))
    for before, after in pairwise(databases):
        await asyncio.to_thread(backup, before, file)
        await asyncio.to_thread(restore, after, file)
    assert await kept[2].recent("ann", 10) == await kept[0].recent("ann", 10) != []
    assert await kept[2].find("k") == await kept[0].find("k") is not None
    for database in databases:
        database.close()


async def test_what_is_old_is_swept_unless_a_younger_request_refers_to_it(
    drawings: Drawings, database_url: str
) -> None:
    for key in ("known again", "old"):
        await drawings.keep(key, Found([], {}))
    await drawings.log(replace(ASKED, task="t1", result="known again"))
    await drawings.log(replace(ASKED, task="t2", result="old"))
    before = datetime.now(UTC)
    await drawings.log(replace(ASKED, task="t3", result="known again", cached=True))
    await drawings.keep("new", Found([], {}))
    with Database(database_url) as database:
        assert sweep(database, before - timedelta(days=1)) == (0, 0)
        assert sweep(database, before) == (2, 1)
        assert sweep(database, before) == (0, 0)
    assert [row["task"] for row in await drawings.recent("ann", 10)] == ["t3"]
    assert [bool(await drawings.find(key)) for key in ("known again", "old", "new")] == [True, False, True]
