"""`kc-worker posters` as a person types it: real Redis, a real worker, a scripted vision server."""

import io
import json
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from rdflib import RDF, SDO, Graph, Literal, URIRef

from tests.acceptance.conftest import KC_WORKER, KcWorker, clean_environment
from worker.local.celery_worker import LocalWorker
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted

CATEGORIES = ["characters", "objects", "colours", "mood", "emotions", "style", "function"]
FOUND = {
    "simple_description": "Na plakacie jest kot.",
    "research_description": "Kompozycja jest centralna.",
    "tags": {name: ["kot", "Kot", "mleko"] if name == "objects" else ["jeden"] for name in CATEGORIES},
}
#: Where the pictures are; 127.0.0.1 is what nobody may be led to.
PICTURES = "127.0.0.2"
FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]


def poster(number: int, size: tuple[int, int] = (300, 420)) -> Image.Image:
    picture = Image.new("RGB", size, f"hsl({number * 9}, 70%, 60%)")
    ImageDraw.Draw(picture).text((20, 20), f"Poster {number}", fill="black", font_size=40)
    return picture


def encoded(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


class Pictures(ThreadingHTTPServer):
    """A web server with 31 good pictures, two huge ones, and seven that are none."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        super().__init__((PICTURES, 0), _Handler)
        self.url = f"http://{PICTURES}:{self.server_port}"
        for number in range(31):
            kind = FORMATS[number % len(FORMATS)]
            self.add(f"/good-{number}", encoded(poster(number), kind))
        noise = Image.effect_noise((3000, 4000), 80).convert("RGB")
        self.add("/big-0", encoded(noise, "JPEG"))
        self.add("/big-1", encoded(poster(1, (6000, 8000)), "PNG"))
        self.add("/too-big", encoded(Image.new("1", (20_000, 20_000)), "PNG"))
        self.add("/broken-0", encoded(poster(0), "PNG")[:500])
        self.add("/broken-1", b"")
        self.add("/broken-2", random.Random(1).randbytes(5000))
        self.add("/html", b"<!doctype html><title>Posters</title>", "text/html")
        self.pages["/inside"] = (302, {"Location": "http://127.0.0.1:6379/"}, b"")

    def add(self, path: str, data: bytes, kind: str = "image/png") -> None:
        self.pages[path] = (200, {"Content-Type": kind}, data)


class _Handler(BaseHTTPRequestHandler):
    server: Pictures

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        status, headers, data = self.server.pages.get(self.path, (404, {}, b"not here"))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def pictures() -> Iterator[Pictures]:
    with Pictures() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def scripted() -> Iterator[LocalScripted]:
    with LocalScripted("llamacpp", latency_s=0.05, vision=1, tokens=2000, slots=4) as server:
        server.wait_ready()
        server.script({"fault": "content", "content": json.dumps(FOUND), "times": -1})
        yield server


@pytest.fixture(scope="module")
def served(
    broker: LocalRedis, scripted: LocalScripted, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("worker")
    with LocalWorker(broker.url, scripted.url, directory=folder, env={"FETCH_ALLOW": PICTURES}) as worker:
        worker.wait_ready()
        yield {"REDIS_URL": broker.url}


BAD = {
    "too-big": "`image` has 20,000 x 20,000 pixels, the limit is 50,000,000",
    "broken-0": "`image` is a broken picture",
    "broken-1": "`image` is empty",
    "broken-2": "`image` is something else, not a picture",
    "html": "`image` is a web page, not a picture",
    "inside": "127.0.0.1",
    "missing": "404",
}


def forty(url: str) -> dict[str, Any]:
    names = [*(f"good-{number}" for number in range(31)), "big-0", "big-1", *BAD]
    random.Random(7).shuffle(names)
    return {
        "items": [
            {"id": name, "title": f"Plakat „{name}”", "description": "Z wystawy.", "imageUrl": f"{url}/{name}",
             "year": 1966, "pageUrl": f"https://posters.example/{name}?a=b c"}
            for name in names
        ]
    }  # fmt: skip


def chats(scripted: LocalScripted) -> int:
    return sum(one["path"] == "/v1/chat/completions" for one in scripted.seen()["requests"])


def answered(scripted: LocalScripted) -> int:
    """Chats that were answered to their end."""
    asked = [one for one in scripted.seen()["requests"] if one["path"] == "/v1/chat/completions"]
    return sum(one["outcome"] == "answered" for one in asked)


@pytest.fixture
def listed(tmp_path: Path, pictures: Pictures) -> Path:
    path = tmp_path / "posters.json"
    path.write_text(json.dumps(forty(pictures.url)))
    return path


def test_forty_posters_of_which_seven_are_none(
    kc_worker: KcWorker, served: dict[str, str], scripted: LocalScripted, pictures: Pictures, listed: Path
) -> None:
    out, before = listed.parent / "out", chats(scripted)
    ran = kc_worker("posters", "posters.json", "--out", "out", "--turtle", "posters.ttl", **served)
    assert ran.returncode == 1, ran.stderr
    assert "33 of 40 posters: out, 7 failed: out/errors.jsonl" in ran.stderr
    failed = {
        one["id"]: one["message"] for one in map(json.loads, (out / "errors.jsonl").read_text().splitlines())
    }
    assert failed.keys() == BAD.keys()
    for name, message in BAD.items():
        assert message in failed[name]
        assert f"{name}: {failed[name]}" in ran.stderr
    written = {path.stem: json.loads(path.read_text()) for path in out.glob("*.json") if path.name[0] != "."}
    assert len(written) == 33
    one = written["good-3"]
    assert one["tags"]["objects"] == ["kot", "mleko"]
    assert list(one["tags"]) == CATEGORIES
    assert (one["language"], one["item"]["year"], one["meta"]["model"]) == ("pl", 1966, "scripted")
    assert one["meta"]["usage"]["prompt_tokens"] > 64  # the picture's among them
    assert chats(scripted) - before == 33

    asked = Counter(pictures.asked)
    again = kc_worker("posters", "posters.json", "--out", "out", "--json", **served)
    assert again.returncode == 1
    said = json.loads(again.stdout)
    assert (said["completed"], said["failed"], said["before"]) == (33, 7, 40)
    assert chats(scripted) - before == 33
    assert pictures.asked == asked

    graph = Graph().parse(listed.parent / "posters.ttl")
    assert len(set(graph.subjects(RDF.type, SDO.VisualArtwork))) == 33
    page = URIRef("https://posters.example/good-3?a=b%20c")
    assert graph.value(page, SDO.abstract) == Literal("Na plakacie jest kot.", lang="pl")
    assert Literal("mleko", lang="pl") in set(graph.objects(page, URIRef("urn:kc-worker:poster:objects")))


def test_the_model_is_shown_the_picture_and_told_what_is_known(
    kc_worker: KcWorker, served: dict[str, str], scripted: LocalScripted, pictures: Pictures, tmp_path: Path
) -> None:
    item = {"id": "a/b", "title": "Kot", "imageUrl": f"{pictures.url}/big-1"}
    (tmp_path / "one.json").write_text(json.dumps({"items": [item]}))
    ran = kc_worker("posters", "one.json", "--out", "out", "--language", "en", **served)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "out" / "a%2Fb.json").exists()
    asked = [one for one in scripted.seen()["requests"] if one["path"] == "/v1/chat/completions"][-1]["body"]
    picture, text = asked["messages"][-1]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    assert len(picture["image_url"]["url"]) < 200_000  # made small enough for the model
    assert "<text>\ntitle: Kot\n</text>" in text["text"]
    assert "The picture is a poster" in text["text"]
    assert asked["response_format"]["type"] == "json_schema"


def test_ctrl_c_and_a_kill_and_going_on_do_nothing_twice(
    kc_worker: KcWorker, served: dict[str, str], scripted: LocalScripted, pictures: Pictures, tmp_path: Path
) -> None:
    items = [{"id": f"p{number}", "imageUrl": f"{pictures.url}/good-{number % 31}"} for number in range(150)]
    (tmp_path / "many.json").write_text(json.dumps({"items": items}))
    out, before = tmp_path / "out", answered(scripted)
    for number in (signal.SIGINT, signal.SIGKILL):
        had = len(list(out.glob("p*.json")))
        process = subprocess.Popen(
            [*KC_WORKER, "posters", "many.json", "--out", "out"],
            cwd=tmp_path, env=clean_environment(**served), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while len(list(out.glob("p*.json"))) < had + 20:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert "Type it again to go on." in said
    ran = kc_worker("posters", "many.json", "--out", "out", **served)
    assert ran.returncode == 0, ran.stderr
    assert len(list(out.glob("p*.json"))) == 150
    # What a kill left behind is found again. Ctrl-C cancels what the worker has, at most ten here: an answer that
    # meets its own cancellation is asked for once more.
    assert answered(scripted) - before <= 150 + 10


def test_failed_ones_are_tried_again_when_told_to(
    kc_worker: KcWorker, served: dict[str, str], pictures: Pictures, tmp_path: Path
) -> None:
    (tmp_path / "one.json").write_text(
        json.dumps({"items": [{"id": "late", "imageUrl": f"{pictures.url}/late"}]})
    )
    assert kc_worker("posters", "one.json", "--out", "out", **served).returncode == 1
    pictures.add("/late", encoded(poster(5), "PNG"))
    assert kc_worker("posters", "one.json", "--out", "out", **served).returncode == 1
    ran = kc_worker("posters", "one.json", "--out", "out", "--retry-failed", **served)
    assert ran.returncode == 0, ran.stderr
    assert "1 of 1 posters" in ran.stderr
    assert not (tmp_path / "out" / "errors.jsonl").exists()


def test_items_that_are_none_are_named_and_the_others_done(
    kc_worker: KcWorker, served: dict[str, str], pictures: Pictures, tmp_path: Path
) -> None:
    good = {"id": 7, "imageUrl": f"{pictures.url}/good-7"}
    items = [good, "nothing", {"imageUrl": "x"}, {"id": "no picture"}, {**good}, {**good, "id": "t", "title": 5},
             {"id": "beside", "imageUrl": "beside.png"}]  # fmt: skip
    (tmp_path / "odd.json").write_text(json.dumps({"items": items}))
    ran = kc_worker("posters", "odd.json", "--out", "out", **served)
    assert ran.returncode == 1
    assert (tmp_path / "out" / "7.json").exists()
    for said in (
        "(item 2): An item has to be an object.",
        "(item 3): `id` has to be a string.",
        "no picture: `imageUrl` has to be a string.",
        "7 (item 5): `id` '7' is that of another item, too.",
        "`title`: input should be a valid string",
        "beside: ",
        "Set INPUT_DIRS.",
    ):
        assert said in ran.stderr
    assert kc_worker("posters", "odd.json", "--out", "out", "--json", **served).returncode == 1


def test_all_are_done_once_more_and_going_on_does_none_of_them_twice(
    kc_worker: KcWorker, served: dict[str, str], scripted: LocalScripted, pictures: Pictures, tmp_path: Path
) -> None:
    items = [{"id": f"p{number}", "imageUrl": f"{pictures.url}/good-{number % 31}"} for number in range(60)]
    (tmp_path / "many.json").write_text(json.dumps({"items": items}))
    command = ["posters", "many.json", "--out", "out"]
    assert kc_worker(*command, **served).returncode == 0
    before = answered(scripted)
    process = subprocess.Popen(
        [*KC_WORKER, *command, "--overwrite"],
        cwd=tmp_path, env=clean_environment(**served), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while answered(scripted) < before + 10:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert "Type it again without --overwrite to go on." in said
    ran = kc_worker(*command, "--json", **served)
    assert ran.returncode == 0, ran.stderr
    assert 10 <= json.loads(ran.stdout)["before"] < 60
    assert answered(scripted) - before <= 60 + 10


def test_what_a_crash_left_in_the_errors_is_no_trouble(
    kc_worker: KcWorker, served: dict[str, str], pictures: Pictures, tmp_path: Path
) -> None:
    items = [
        {"id": "good", "imageUrl": f"{pictures.url}/good-1"},
        {"id": "a\u2028ż", "imageUrl": f"{pictures.url}/no"},
    ]
    (tmp_path / "list.json").write_text(json.dumps({"items": items}))
    command = ["posters", "list.json", "--out", "out", "--json"]
    assert kc_worker(*command, **served).returncode == 1
    with (tmp_path / "out" / "errors.jsonl").open("ab") as file:
        file.write(b'1\n{"id": "good", "message": "za\xc5')  # in the middle of a letter
    said = json.loads(kc_worker(*command, **served).stdout)
    assert (said["completed"], said["failed"], said["before"]) == (1, 1, 2)
    assert len((tmp_path / "out" / "errors.jsonl").read_bytes().splitlines()) == 2


def test_items_that_no_file_can_hold_are_named(
    kc_worker: KcWorker, served: dict[str, str], pictures: Pictures, tmp_path: Path
) -> None:
    good = {"id": "good", "imageUrl": f"{pictures.url}/good-1", "pageUrl": "http://[bad"}
    items = [good, {"id": "address", "imageUrl": "http://[bad/x.jpg"},
             {"id": "half", "imageUrl": "x.png", "note": "\ud800"}]  # fmt: skip
    (tmp_path / "list.json").write_text(json.dumps({"items": items}))
    ran = kc_worker("posters", "list.json", "--out", "out", "--turtle", "out.ttl", **served)
    assert ran.returncode == 1
    assert "address: `imageUrl` is no address" in ran.stderr
    assert "half: The item contains a lone surrogate" in ran.stderr
    assert Graph().parse(tmp_path / "out.ttl").value(None, SDO.identifier, Literal("good"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("nope", "it is not JSON"),
        ("[]", "it has to be an object"),
        ('{"posters": []}', "`items` has to be a list of posters"),
        ('{"items": []}', "`items` has to be a list of posters"),
    ],
)
def test_a_list_that_is_none(kc_worker: KcWorker, tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "list.json").write_text(content)
    ran = kc_worker("posters", "list.json", "--out", "out")
    assert ran.returncode == 1
    assert said in ran.stderr
    assert not (tmp_path / "out").exists()
