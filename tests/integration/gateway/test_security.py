"""What is sent to do harm is refused cheaply, and the service goes on."""

import gzip
import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.gateway.conftest import Answer, Call, caller_of
from tests.integration.gateway.test_files import form
from worker.local.gateway import LocalGateway
from worker.local.redis import LocalRedis

MiB = 2**20
MOST_FILE = 8 * MiB
SLOW_S = 1.0
GiB = 2**30
FILE_HEAD = b'--kc\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


@pytest.fixture(scope="module")
def gateway(broker: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalGateway]:
    """With limits that a test reaches in seconds."""
    env = {"MAX_FILE_BYTES": str(MOST_FILE), "GATEWAY_BODY_TIMEOUT_S": str(SLOW_S)}
    with LocalGateway(broker.url, env=env, directory=tmp_path_factory.mktemp("gateway")) as gateway:
        gateway.wait_ready()
        yield gateway


@pytest.fixture(autouse=True)
def unharmed(gateway: LocalGateway) -> Iterator[None]:
    """After every attack: it answers at once, with no more memory and no more open files than before."""
    call = caller_of(gateway.url)
    call("/health/live")
    process = psutil.Process(gateway.pid)
    memory, files = process.memory_info().rss, process.num_fds()
    yield
    began = time.monotonic()
    assert call("/health/live").status == 200
    assert time.monotonic() - began < 2
    assert process.memory_info().rss - memory < 24 * MiB
    give_up = time.monotonic() + 10
    while process.num_fds() > files + 8 and time.monotonic() < give_up:
        time.sleep(0.05)
    assert process.num_fds() <= files + 8
    assert not list(gateway.directory.rglob("*.part"))


def connected(gateway: LocalGateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gateway.port), timeout=30)


def answered(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of what comes back; (0, b"") where the connection is only closed."""
    response = http.client.HTTPResponse(connection)
    try:
        response.begin()
        return response.status, response.read()
    except (ConnectionError, http.client.HTTPException):
        return 0, b""


def test_an_upload_of_2_gib_is_refused_by_its_length(gateway: LocalGateway) -> None:
    with connected(gateway) as connection:
        connection.sendall(
            b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=kc\r\n"
            b"content-length: 2147483648\r\n\r\n--kc\r\n"
        )
        status, body = answered(connection)
    assert status == 413
    assert json.loads(body)["error"]["code"] == "input_too_large"


def test_an_upload_of_2_gib_in_chunks_is_cut_off_at_the_limit(gateway: LocalGateway) -> None:
    sent = 0
    with connected(gateway) as connection:
        connection.sendall(
            b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=kc\r\n"
            b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(FILE_HEAD), FILE_HEAD)
        )
        piece = b"100000\r\n" + b"x" * MiB + b"\r\n"
        try:
            while sent < 2 * GiB:
                connection.sendall(piece)
                sent += MiB
        except ConnectionError:
            pass
        status, _ = answered(connection)
    assert status in {413, 0}, "what is still being sent may meet a closed connection first"
    assert sent < 64 * MiB
    assert not list(gateway.directory.rglob("*.data"))


@pytest.mark.parametrize("pause_s", [0.2, 60.0])
def test_an_upload_that_drips_is_not_waited_for(gateway: LocalGateway, pause_s: float) -> None:
    began = time.monotonic()
    with connected(gateway) as connection:
        connection.sendall(
            b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=kc\r\n"
            b"content-length: 4000000\r\n\r\n" + FILE_HEAD
        )
        connection.settimeout(pause_s)
        status = 0
        while time.monotonic() - began < 20 * SLOW_S:
            try:
                connection.sendall(b"-")
                if received := connection.recv(65536):
                    status = int(received.split()[1])
                break
            except TimeoutError:
                continue
            except ConnectionError:
                break
    assert status == 408
    assert time.monotonic() - began < 5 * SLOW_S


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nx: " + b"a" * (4 * MiB),
        b"GET / HTTP/1.1\r\n" + b"x: a\r\n" * 500_000,
        b"GET /" + b"a" * (4 * MiB),
        b"GET / HTTP/1.1\r\n" + b"".join(b"x%d: a\r\n" % number for number in range(5000)) + b"\r\n",
    ],
    ids=["one long header", "many headers", "a long address", "many headers at once"],
)
def test_a_head_that_is_too_long_is_refused(gateway: LocalGateway, head: bytes) -> None:
    with connected(gateway) as connection:
        try:
            for start in range(0, len(head), 65536):
                connection.sendall(head[start : start + 65536])
        except ConnectionError:
            pass
        status, _ = answered(connection)
    assert status in {431, 0}


def test_heads_that_never_end_hold_nobody_up(gateway: LocalGateway) -> None:
    """Three hundred clients that begin a request and say no more."""
    slow = [connected(gateway) for _ in range(300)]
    try:
        for connection in slow:
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nhost:")
        began = time.monotonic()
        for _ in range(20):
            assert caller_of(gateway.url)("/health/live").status == 200
        assert time.monotonic() - began < 5
    finally:
        for connection in slow:
            connection.close()


@pytest.mark.parametrize("sent", [b"\0" * 100, b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"])
def test_what_is_no_http_is_refused(gateway: LocalGateway, sent: bytes) -> None:
    with connected(gateway) as connection:
        connection.sendall(sent)
        status, body = answered(connection)
    assert status == 400
    assert json.loads(body)["error"]["code"] == "invalid_http"


def test_a_compressed_bomb_is_not_opened(call: Call) -> None:
    bomb = gzip.compress(b"\0" * (100 * MiB))
    for path, kind in (
        ("/v1/chat/completions", "application/json"),
        ("/v1/files", "multipart/form-data; boundary=kc"),
    ):
        for encoding in ("gzip", "deflate", "br", "zstd", "gzip, gzip"):
            answer = call(path, bomb, content_encoding=encoding, content_type=kind)
            assert (answer.status, answer.error["code"]) == (415, "unsupported_encoding")


@pytest.mark.parametrize("depth", [101, 500, 990, 5_000, 100_000])
@pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"a":', b"}")])
def test_json_that_is_nested_deeply_is_refused(call: Call, depth: int, brackets: tuple[bytes, bytes]) -> None:
    opened, closed = brackets
    inner = opened * depth + b"1" + closed * depth
    for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/tasks/llm.extract", "/v1/batches"):
        answer = call(path, b'{"input": ' + inner + b', "metadata": ' + inner + b"}")
        assert answer.status in {400, 413}
        assert answer.error["code"] in {"invalid_json", "input_too_large"}


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": [{"role": "user", "content": "a"}], "seed": ' + b"9" * 100_000 + b"}",
        b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e400}',
        b'{"messages": [{"role": "user", "content": "a"}], "top_p": NaN}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "\\u0000"}]}',
        b'{"messages": ' + json.dumps([{"role": "user"}] * 8000).encode() + b"}",
        b'{"messages": [], "messages": 1}',
    ],
    ids=["huge number", "infinite", "not a number", "surrogate", "nul", "many wrong messages", "twice"],
)
def test_values_that_are_no_values_are_refused(call: Call, body: bytes) -> None:
    answer = call("/v1/chat/completions", body)
    assert answer.status in {400, 413}, answer.content


def test_a_form_that_is_no_form_is_refused(call: Call) -> None:
    kind = "multipart/form-data; boundary=kc"
    for body in (
        b"--kc\r\n" * 50_000,
        b"--kc\r\nContent-Disposition: form-data; name=" + b"x" * MiB,
        form({"purpose": "x" * (2 * MiB)}, b"1"),
        form({"purpose": "batch"}, b"1")[:-8],
        b"--kc\r\n" + b"a: b\r\n" * 100_000 + b"\r\n",
    ):
        assert call("/v1/files", body, content_type=kind).status in {400, 413}
    assert call("/v1/files", b"x", content_type="multipart/form-data; boundary=" + "b" * 5000).status == 400


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/v1/files/..%2f..%2f..%2fetc%2fpasswd/content", "/v1/batches/%2e%2e", "/v1/tasks/%0d%0aset-cookie:x/events",
     "//etc/passwd", "/v1/files/file-%00/content", "/docs/../../x"],
)  # fmt: skip
def test_no_path_leads_out(gateway: LocalGateway, path: str) -> None:
    with connected(gateway) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        status, body = answered(connection)
    assert status in {400, 404}
    assert b"root:" not in body


def test_a_name_does_not_end_a_header(call: Call) -> None:
    content = (
        b'--kc\r\nContent-Disposition: form-data; name="file"; filename="a%0d%0aset-cookie: x\\"; y.jsonl"\r\n\r\n1\r\n'
        b'--kc\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--kc--\r\n'
    )
    file = call("/v1/files", content, content_type="multipart/form-data; boundary=kc")
    assert file.status == 200
    answer: Answer = call(f"/v1/files/{file.json['id']}/content")
    assert answer.content == b"1"
    assert "set-cookie" not in {name.lower() for name in answer.headers}
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith("attachment")


def test_a_request_is_not_smuggled_behind_another(gateway: LocalGateway) -> None:
    with connected(gateway) as connection:
        connection.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n"
            b"0\r\n\r\nGET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
        )
        status, body = answered(connection)
    assert status == 400
    assert b'"object":"list"' not in body


def test_an_input_elsewhere_on_the_disk_is_none_of_a_tasks(call: Call, tmp_path: Path) -> None:
    """Paths are the worker's business: it opens nothing outside INPUT_DIRS (see tests/acceptance/test_bad_input)."""
    (tmp_path / "x").write_text("secret")
    answer = call("/v1/batches", {"input_file_id": str(tmp_path / "x"), "endpoint": "/v1/embeddings"})
    assert answer.status == 404
