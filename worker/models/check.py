"""Says in words what is wrong with a model on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worker.errors import ModelError
from worker.models.folder import read_folder
from worker.models.gguf import GgufInfo, read_gguf, split_parts
from worker.models.words import truncated_text

Kind = Literal["gguf", "hf"]


@dataclass(frozen=True)
class Check:
    """The outcome of a check.

    Attributes:
        path: the file or folder.
        kind: "gguf" or "hf".
        problems: sentences; a server cannot use the model.
        warnings: sentences; the model works, though not for everything.
    """

    path: Path
    kind: Kind
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether a server can use the model."""
        return not self.problems


def check(path: Path) -> Check:
    """Check a GGUF file (with the other parts of a split model) or a model folder.

    Raises:
        ModelError: there is nothing at `path`, or it is a folder that cannot be listed.
    """
    if path.is_dir():
        info = read_folder(path)
        return Check(path, "hf", tuple(info.problems), tuple(info.warnings))
    if not path.exists():
        raise ModelError(f"There is no file or folder {path}.")
    if path.suffix == ".safetensors" or path.name == "config.json":
        raise ModelError(f"{path} is one file of a model. Check its folder: {path.parent}.")
    return _check_gguf(path)


def _check_gguf(path: Path) -> Check:
    problems: list[str] = []
    warnings: list[str] = []
    for name in split_parts(path.name):
        part = path.with_name(name)
        if not part.is_file():
            problems.append(f"{name} is missing, a part of this split model. Pull the model again.")
            continue
        try:
            info = read_gguf(part)
        except ModelError as error:
            problems.append(str(error))
            continue
        if info.missing_bytes:
            problems.append(truncated_text(name, info.missing_bytes, info.needed_bytes))
        if name == split_parts(path.name)[0]:
            _judge_metadata(part, info, problems, warnings)
    return Check(path, "gguf", tuple(problems), tuple(warnings))


def _judge_metadata(path: Path, info: GgufInfo, problems: list[str], warnings: list[str]) -> None:
    split = len(split_parts(path.name)) > 1
    parts = info.metadata.get("split.count")
    if not split and isinstance(parts, int) and parts > 1:
        problems.append(
            f"{path.name} is one of {parts} parts but is not named like one; llama.cpp finds the others by "
            "name. Give all of them back the names they were published under."
        )
    if info.architecture is None:
        problems.append(f"{path.name} does not name its architecture: llama.cpp cannot load it.")
    if info.tensors == 0 and not split:
        problems.append(f"{path.name} holds no tensors, only a header or a vocabulary.")
    if info.architecture == "clip":
        warnings.append(f"{path.name} is the eye of a multimodal model; it is served beside one, not alone.")
        return
    if not info.has_tokenizer:
        problems.append(f"{path.name} has no tokenizer: llama.cpp cannot turn text into tokens.")
    if not info.has_chat_template:
        warnings.append(
            f"{path.name} has no chat template: llama.cpp falls back to a generic one. "
            "Prefer an instruct model."
        )
    if info.unknown_types:
        warnings.append(
            f"{path.name} has tensors of the types {sorted(info.unknown_types)}, unknown to this version: "
            "their sizes were not checked, and an older llama.cpp may refuse them."
        )
