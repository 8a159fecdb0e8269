"""What `check` and `list` say about models on disk."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models.writers import CHAT_METADATA, gguf, hf_files, safetensors, write_folder
from worker.errors import ModelError
from worker.models.catalogue import find, list_models
from worker.models.check import check
from worker.models.safetensors import read_safetensors


def without(*keys: str) -> bytes:
    return gguf({key: value for key, value in CHAT_METADATA.items() if key not in keys})


def check_file(tmp_path: Path, data: bytes, name: str = "m.gguf"):
    path = tmp_path / name
    path.write_bytes(data)
    return check(path)


def check_folder(tmp_path: Path, changes: dict[str, bytes | None], **kwargs: int):
    files = hf_files(**kwargs) | changes
    return check(
        write_folder(tmp_path / "m", {name: data for name, data in files.items() if data is not None})
    )


def test_a_good_gguf_file_has_no_problems(tmp_path: Path):
    checked = check_file(tmp_path, gguf())
    assert (checked.ok, checked.problems, checked.warnings) == (True, (), ())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (gguf()[:-100], "truncated: 100 B of"),
        (b"<html>", "not a GGUF model: it is a web page"),
        (without("general.architecture"), "does not name its architecture"),
        (without("tokenizer.ggml.model"), "no tokenizer"),
        (gguf(tensors=0), "holds no tensors"),
        (gguf(CHAT_METADATA | {"split.count": 3}), "one of 3 parts"),
    ],
)
def test_what_is_wrong_with_a_gguf_file_is_said(tmp_path: Path, data: bytes, words: str):
    (problem,) = check_file(tmp_path, data).problems
    assert words in problem


def test_what_only_limits_a_gguf_file_is_a_warning(tmp_path: Path):
    checked = check_file(tmp_path, without("tokenizer.chat_template"))
    assert checked.ok
    assert "no chat template" in checked.warnings[0]


def test_a_projector_is_no_broken_model(tmp_path: Path):
    checked = check_file(tmp_path, gguf({"general.architecture": "clip"}))
    assert checked.ok
    assert "multimodal" in checked.warnings[0]


def test_every_part_of_a_split_model_is_checked(tmp_path: Path):
    first = gguf(CHAT_METADATA | {"split.count": 3})
    (tmp_path / "m-00003-of-00003.gguf").write_bytes(gguf({})[:-10])
    checked = check_file(tmp_path, first, "m-00001-of-00003.gguf")
    assert len(checked.problems) == 2
    assert "m-00002-of-00003.gguf is missing" in checked.problems[0]
    assert "m-00003-of-00003.gguf is truncated: 10 B" in checked.problems[1]


def test_a_good_folder_has_no_problems(tmp_path: Path):
    checked = check_folder(tmp_path, {}, shards=3)
    assert (checked.kind, checked.ok, checked.warnings) == ("hf", True, ())


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config.json": None}, "config.json is missing"),
        ({"config.json": b"{"}, "config.json is not valid JSON"),
        ({"config.json": b"[1]"}, "JSON list where an object belongs"),
        ({"config.json": b"{}"}, None),
        ({"config.json": b"[" * 100_000}, "config.json is not valid JSON"),
        ({"model.safetensors": None}, "weights are missing"),
        ({"model.safetensors": None, "pytorch_model.bin": b"x"}, "only PyTorch ones"),
        ({"model.safetensors": None, "m.gguf": gguf()}, "belongs in the gguf folder"),
        ({"model.safetensors": safetensors()[:-56]}, "truncated: 56 B of"),
        ({"model.safetensors": safetensors()[:40]}, "is truncated"),
        ({"model.safetensors": LFS_POINTER}, "git-lfs pointer"),
        ({"model.safetensors": b""}, "is empty"),
        ({"tokenizer.json": None}, "tokenizer is missing"),
        ({"tokenizer.json": LFS_POINTER}, "tokenizer.json is a git-lfs pointer"),
        (
            {"model.safetensors.index.json": b'{"weight_map": {"a": "b.safetensors"}}'},
            "b.safetensors is missing",
        ),
        ({"model.safetensors.index.json": b"{}"}, 'has no "weight_map"'),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(
    tmp_path: Path, changes: dict[str, bytes | None], words: str | None
):
    (problem,) = check_folder(tmp_path, changes).problems
    assert (words or 'neither "architectures" nor "model_type"') in problem


def test_a_folder_without_chat_template_gets_a_warning(tmp_path: Path):
    checked = check_folder(tmp_path, {"tokenizer_config.json": b"{}"})
    assert checked.ok
    assert "chat template" in checked.warnings[0]


def test_a_chat_template_may_be_a_file_of_its_own(tmp_path: Path):
    checked = check_folder(
        tmp_path, {"tokenizer_config.json": b"{}", "chat_template.jinja": b"{{ messages }}"}
    )
    assert checked.warnings == ()


def test_one_file_of_a_folder_is_not_checked_alone(tmp_path: Path):
    write_folder(tmp_path, hf_files())
    with pytest.raises(ModelError, match="Check its folder"):
        check(tmp_path / "model.safetensors")


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(st.binary(max_size=300), st.binary(max_size=200).map(lambda rest: safetensors()[:90] + rest))
)
def test_no_bytes_make_the_safetensors_reader_raise_anything_but_a_model_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
):
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(data)
    try:
        read_safetensors(path)
    except ModelError:
        return


@pytest.mark.parametrize(
    "tensor",
    [
        1,
        {},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": 3, "data_offsets": [0]},
    ],
)
def test_a_header_that_describes_tensors_wrongly_is_damage(tmp_path: Path, tensor: object):
    raw = json.dumps({"t": tensor}).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    with pytest.raises(ModelError, match="describes the tensor 't' wrongly"):
        read_safetensors(path)


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    write_folder(
        tmp_path / "gguf", {"a.gguf": gguf(), "sub/cut.gguf": gguf()[:-9], ".pull/x/no.gguf": b"partial"}
    )
    write_folder(
        tmp_path / "gguf",
        {"s-00001-of-00002.gguf": gguf(), "s-00002-of-00002.gguf": gguf({}), "bad.gguf": b"x"},
    )
    write_folder(tmp_path / "hf" / "org--name", hf_files(shards=2))
    write_folder(tmp_path / "hf" / ".pull", {"org--other/ready/config.json": b"{}"})
    return tmp_path


def test_models_are_listed_with_what_their_files_say(models_dir: Path):
    found = {model.name: model for model in list_models(models_dir)}
    assert list(found) == ["a.gguf", "bad.gguf", "s-00001-of-00002.gguf", "sub/cut.gguf", "org--name"]
    one = found["a.gguf"]
    assert (one.quantization, one.architecture, one.context_length) == ("Q4_K_M", "llama", 4096)
    assert found["s-00001-of-00002.gguf"].parameters == 256
    assert found["sub/cut.gguf"].problem == "truncated"
    assert "not a GGUF model" in str(found["bad.gguf"].problem)
    folder = found["org--name"]
    assert (folder.kind, folder.quantization, folder.architecture) == ("hf", "bfloat16", "LlamaForCausalLM")
    assert (folder.context_length, folder.parameters, folder.problem) == (2048, 256, None)


def test_a_quantised_folder_says_so_and_does_not_count_packed_weights(tmp_path: Path):
    config = {"model_type": "qwen3", "quantization_config": {"quant_method": "awq", "bits": 4}}
    write_folder(tmp_path / "hf" / "m", hf_files() | {"config.json": json.dumps(config).encode()})
    (model,) = list_models(tmp_path)
    assert (model.quantization, model.architecture, model.parameters) == ("awq 4 bit", "qwen3", None)


@pytest.mark.parametrize("name", ["a.gguf", "a", "sub/cut.gguf", "org/name", "org--name"])
def test_a_model_is_found_by_any_of_its_names(models_dir: Path, name: str):
    assert find(name, models_dir).exists()


def test_an_unknown_name_is_answered_with_the_ones_there_are(models_dir: Path):
    with pytest.raises(ModelError, match=r"Did you mean bad\.gguf\?.*org--name"):
        find("b.gguf", models_dir)


def test_an_empty_models_folder_lists_nothing(tmp_path: Path):
    assert list_models(tmp_path) == []
