"""OpenAI's Files API by the official client, and what it refuses."""

import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.integration.gateway.conftest import Call, GatewayFactory, caller_of
from worker.delivery.sending import Limits
from worker.gateway.keys import new_key
from worker.local.gateway import LocalGateway

LINES = b'{"custom_id": "a"}\n'


@pytest.fixture
def client(gateway: LocalGateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_upload_look_download_delete(client: openai.OpenAI) -> None:
    file = client.files.create(file=("in.jsonl", LINES), purpose="batch")
    assert (file.bytes, file.filename, file.purpose, file.status) == (
        len(LINES),
        "in.jsonl",
        "batch",
        "processed",
    )
    assert abs(file.created_at - time.time()) < 10
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == LINES
    assert file.id in {one.id for one in client.files.list()}
    assert client.files.delete(file.id).deleted
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            gone(file.id)


def test_a_file_expires(client: openai.OpenAI) -> None:
    file = client.files.create(
        file=LINES, purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at == pytest.approx(file.created_at + 3600, abs=2)


def test_lists_come_in_pages(client: openai.OpenAI) -> None:
    ids = []
    for number in range(5):
        ids.append(client.files.create(file=(f"{number}.jsonl", LINES), purpose="batch").id)
        time.sleep(0.002)
    first = client.files.list(limit=2)
    assert [one.id for one in first.data] == ids[:2:-1]
    assert first.has_more
    assert [one.id for one in first][:5] == ids[::-1], "the client asks for page after page"
    oldest = client.files.list(order="asc", limit=10_000).data
    assert [one.id for one in oldest][-5:] == ids
    with pytest.raises(openai.NotFoundError):
        client.files.list(after="file-" + "0" * 32)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "fine-tune"}, "purpose"),
        ({}, "purpose"),
        ({"purpose": "batch", "expires_after[seconds]": "3600"}, "expires_after.anchor"),
        ({"purpose": "batch", "expires_after[anchor]": "created_at"}, "expires_after.seconds"),
        (
            {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "9"},
            "expires_after.seconds",
        ),
    ],
)
def test_what_is_wrong_with_a_form_is_named(call: Call, fields: dict[str, str], param: str) -> None:
    answer = call("/v1/files", form(fields, LINES), content_type="multipart/form-data; boundary=kc")
    assert (answer.status, answer.error["param"]) == (400, param)


def test_a_form_without_a_file_and_one_that_is_none(call: Call) -> None:
    kind = "multipart/form-data; boundary=kc"
    assert call("/v1/files", form({"purpose": "batch"}), content_type=kind).error["param"] == "file"
    assert call("/v1/files", b"no form", content_type=kind).status == 400
    assert call("/v1/files", form({}, LINES), content_type="multipart/form-data").status == 400
    assert call("/v1/files", {"purpose": "batch"}).status == 415
    many = form({f"f{number}": "x" for number in range(50)}, LINES)
    assert call("/v1/files", many, content_type=kind).status == 400


def test_a_file_belongs_to_its_owner(open_gateway: GatewayFactory, tmp_path: Path) -> None:
    (anna, anna_entry), (bert, bert_entry) = (new_key(name, Limits()) for name in ("anna", "bert"))
    gateway = open_gateway(GATEWAY_API_KEYS=f"{anna_entry},{bert_entry}")
    with (
        openai.OpenAI(base_url=gateway.url + "/v1", api_key=anna, max_retries=0) as hers,
        openai.OpenAI(base_url=gateway.url + "/v1", api_key=bert, max_retries=0) as his,
    ):
        file = hers.files.create(file=("../../x.jsonl", LINES), purpose="batch")
        assert file.filename == "x.jsonl"
        for foreign in (his.files.retrieve, his.files.content, his.files.delete):
            with pytest.raises(openai.NotFoundError):
                foreign(file.id)
        assert list(his.files.list()) == []
        with pytest.raises(openai.NotFoundError):
            his.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
        batch = hers.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        for foreign_batch in (his.batches.retrieve, his.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                foreign_batch(batch.id)
        assert list(his.batches.list()) == []
    nobody = caller_of(gateway.url)
    for path in ("/v1/files", f"/v1/files/{file.id}", f"/v1/files/{file.id}/content", "/v1/batches"):
        assert nobody(path).status == 401
        assert nobody(path, key="kc-wrong").status == 401


@pytest.mark.parametrize(
    "file_id", ["..%2f..%2fetc%2fpasswd", "file-..", "%00", "file-" + "g" * 32, "x" * 300]
)
def test_no_id_is_a_path(call: Call, file_id: str) -> None:
    assert call(f"/v1/files/{file_id}/content").status in {400, 404}
    assert call(f"/v1/batches/{file_id}").status in {400, 404}


def form(fields: dict[str, str], file: bytes | None = None) -> bytes:
    parts = [
        f'--kc\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    if file is not None:
        head = '--kc\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        parts.append(head.encode() + file + b"\r\n")
    return b"".join(parts) + b"--kc--\r\n"
