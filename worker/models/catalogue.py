"""The models in a models folder: `gguf/**/*.gguf` and `hf/<org>--<name>/`."""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from worker.errors import ModelError
from worker.models.check import Kind
from worker.models.folder import read_folder
from worker.models.gguf import GgufInfo, read_gguf, split_parts


@dataclass(frozen=True)
class Model:
    """One model on disk; None where the files do not say.

    Attributes:
        name: what `kc-worker models check` takes.
        kind: "gguf" or "hf".
        path: the file (first part of a split model) or folder.
        size_bytes: size of all its files.
        quantization: such as "Q4_K_M" or "bfloat16".
        architecture: such as "llama" or "LlamaForCausalLM".
        context_length: tokens of context it was trained for.
        parameters: number of weights.
        problem: why it cannot be used, as far as seen while listing; `check` says everything.
    """

    name: str
    kind: Kind
    path: Path
    size_bytes: int
    quantization: str | None = None
    architecture: str | None = None
    context_length: int | None = None
    parameters: int | None = None
    problem: str | None = None


def list_models(models_dir: Path) -> list[Model]:
    """Every model below `models_dir`, GGUF first, by name.

    Raises:
        ModelError: a folder cannot be listed.
    """
    try:
        return [_gguf(path, models_dir) for path in gguf_files(models_dir)] + [
            _hf(folder) for folder in hf_folders(models_dir)
        ]
    except OSError as error:
        raise ModelError(f"{models_dir} cannot be listed: {error.strerror or error}.") from error


def gguf_files(models_dir: Path) -> Iterator[Path]:
    """Every GGUF model; of a split one, the first part there is."""
    seen: set[Path] = set()
    root = models_dir / "gguf"
    for path in sorted(root.rglob("*.gguf")):
        if any(part.startswith(".") for part in path.relative_to(root).parts) or path in seen:
            continue
        seen.update(path.with_name(name) for name in split_parts(path.name))
        yield path


def hf_folders(models_dir: Path) -> list[Path]:
    """Every folder with a model in Hugging Face layout."""
    root = models_dir / "hf"
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def find(name: str, models_dir: Path) -> Path:
    """The model a person means.

    Args:
        name: a path, a file in `models_dir`/gguf (with or without ".gguf"), a folder in `models_dir`/hf, or a
            repository name such as "org/name".
        models_dir: where models are.

    Raises:
        ModelError: there is none; the message lists those there are.
    """
    gguf, hf = models_dir / "gguf", models_dir / "hf"
    hf_name = name.replace("/", "--")
    for candidate in (Path(name).expanduser(), gguf / name, gguf / f"{name}.gguf", hf / hf_name):
        if candidate.exists() and candidate.resolve() not in {gguf.resolve(), hf.resolve()}:
            return candidate
    there = [str(path.relative_to(gguf)) for path in gguf_files(models_dir)]
    there += [path.name for path in hf_folders(models_dir)]
    close = get_close_matches(name, there, n=1)
    meant = f" Did you mean {close[0]}?" if close else ""
    known = ", ".join(there) or "none"
    raise ModelError(f"There is no model {name!r}.{meant} Models in {models_dir}: {known}.")


def _hf(folder: Path) -> Model:
    info = read_folder(folder)
    return Model(
        folder.name, "hf", folder, info.size_bytes, info.quantization, info.architecture,
        info.context_length, info.parameters, next(iter(info.problems), None),
    )  # fmt: skip


def _gguf(path: Path, models_dir: Path) -> Model:
    name = str(path.relative_to(models_dir / "gguf"))
    parts = [path.with_name(part) for part in split_parts(path.name)]
    size = sum(part.stat().st_size for part in parts if part.is_file())
    absent = [part.name for part in parts if not part.is_file()]
    problem = f"{absent[0]} is missing" if absent else None
    infos: list[GgufInfo] = []
    try:
        infos = [read_gguf(part) for part in parts if part.is_file()]
    except ModelError as error:
        return Model(name, "gguf", path, size, problem=str(error))
    if problem is None and any(info.missing_bytes for info in infos):
        problem = "truncated"
    first = infos[0]
    parameters = sum(info.parameters for info in infos)
    return Model(
        name, "gguf", path, size, first.quantization, first.architecture, first.context_length,
        parameters or None, problem,
    )  # fmt: skip
