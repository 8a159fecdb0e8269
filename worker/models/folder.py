"""A model in Hugging Face layout: a folder with config.json, a tokenizer and safetensors files."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from worker.errors import ModelError
from worker.models.safetensors import read_safetensors
from worker.models.words import parse_object, truncated_text

INDEX = "model.safetensors.index.json"
_TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json",
    "sentencepiece.bpe.model",
)  # fmt: skip
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_READ_MAX_BYTES = 64 * 1024 * 1024


@dataclass
class FolderInfo:
    """What a model folder says about itself, and what is wrong with it.

    Attributes:
        problems: sentences; with any of them a server would not start or would answer nonsense.
        warnings: sentences; the model works, though not for everything.
        size_bytes: size of all files.
        architecture: such as "LlamaForCausalLM".
        context_length: tokens of context the model was trained for.
        quantization: such as "awq 4 bit", else the data type of the weights.
        parameters: number of weights; None where they are packed or unreadable.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    size_bytes: int = 0
    architecture: str | None = None
    context_length: int | None = None
    quantization: str | None = None
    parameters: int | None = None


def read_folder(folder: Path) -> FolderInfo:
    """Read and check a model folder; nothing in it can make this raise, except that it is not a folder.

    Raises:
        ModelError: `folder` cannot be listed.
    """
    try:
        files = {path.name: path for path in folder.iterdir() if path.is_file()}
        info = FolderInfo(size_bytes=sum(path.stat().st_size for path in visible_files(folder)))
    except OSError as error:
        raise ModelError(f"{folder} cannot be read: {error.strerror or error}.") from error
    config = _config(files, info)
    _describe(config, info)
    dtypes = _weights(folder, files, info)
    if config.get("quantization_config") is None:
        info.parameters = dtypes.total() or None
    if info.quantization is None and dtypes:
        info.quantization = dtypes.most_common(1)[0][0].lower()
    _tokenizer(files, info)
    return info


def visible_files(folder: Path) -> list[Path]:
    """Every file below `folder` that is not hidden nor in a hidden folder, sorted."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _config(files: dict[str, Path], info: FolderInfo) -> dict[str, object]:
    if "config.json" not in files:
        info.problems.append("config.json is missing: a server cannot know what kind of model this is.")
        return {}
    try:
        return _read_object(files["config.json"])
    except ModelError as error:
        info.problems.append(str(error))
        return {}


def _read_object(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            return parse_object(file.read(_READ_MAX_BYTES), path.name)
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error.strerror or error}.") from error


def _describe(config: dict[str, object], info: FolderInfo) -> None:
    match config.get("architectures"):
        case [str(name), *_]:
            info.architecture = name
        case _:
            info.architecture = _text(config.get("model_type"))
    if info.architecture is None and not info.problems:
        info.problems.append('config.json names neither "architectures" nor "model_type".')
    # Models that also see pictures keep the language model's part one level down.
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        length = part.get("max_position_embeddings", part.get("n_positions"))
        if isinstance(length, int) and info.context_length is None:
            info.context_length = length
        if info.quantization is None:
            info.quantization = _text(part.get("torch_dtype")) or _text(part.get("dtype"))
    match config.get("quantization_config"):
        case {"quant_method": str(method), **rest}:
            bits = rest.get("bits")
            info.quantization = f"{method} {bits} bit" if isinstance(bits, int) else method


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _weights(folder: Path, files: dict[str, Path], info: FolderInfo) -> Counter[str]:
    """Check the weights; elements by data type."""
    dtypes: Counter[str] = Counter()
    weights = {name: path for name, path in files.items() if name.endswith(".safetensors")}
    expected: set[str] = set()
    if INDEX in files:
        expected = _indexed(files[INDEX], info)
        for name in sorted(expected - weights.keys()):
            info.problems.append(f"{name} is missing, though {INDEX} lists it. Pull the model again.")
    if not weights and not expected:
        info.problems.append(_no_weights(folder, files))
    for name, path in sorted(weights.items()):
        try:
            header = read_safetensors(path)
        except ModelError as error:
            info.problems.append(str(error))
            continue
        if header.missing_bytes:
            info.problems.append(truncated_text(name, header.missing_bytes, header.needed_bytes))
        if not expected or name in expected:
            dtypes += header.dtypes
    return dtypes


def _indexed(index: Path, info: FolderInfo) -> set[str]:
    try:
        mapping = _read_object(index).get("weight_map")
    except ModelError as error:
        info.problems.append(str(error))
        return set()
    if not isinstance(mapping, dict) or not all(isinstance(name, str) for name in mapping.values()):
        info.problems.append(f'{INDEX} has no "weight_map" of tensors to files.')
        return set()
    return set(mapping.values())


def _no_weights(folder: Path, files: dict[str, Path]) -> str:
    if any(name.endswith((".bin", ".pth", ".pt")) for name in files):
        return (
            "There are no safetensors files, only PyTorch ones (.bin, .pth), which can run code when loaded. "
            "Get a version of the model with safetensors."
        )
    if ggufs := sorted(path.name for path in folder.rglob("*.gguf")):
        return f"There are no safetensors files. {ggufs[0]} is for llama.cpp: it belongs in the gguf folder."
    return "There are no safetensors files: the weights are missing. Pull the model again."


def _tokenizer(files: dict[str, Path], info: FolderInfo) -> None:
    if not any(name in files for name in _TOKENIZERS) and not any(n.endswith(".tiktoken") for n in files):
        info.problems.append(
            "The tokenizer is missing (tokenizer.json, tokenizer.model or vocab.json). Pull the model again."
        )
    config: dict[str, object] = {}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if name not in files:
            continue
        try:
            document = _read_object(files[name])
        except ModelError as error:
            info.problems.append(str(error))
        else:
            config = document if name == "tokenizer_config.json" else config
    if not config.get("chat_template") and not any(name in files for name in _TEMPLATES):
        info.warnings.append(
            "There is no chat template: chats are refused or badly formatted. Use an instruct model, "
            "or give the server a template."
        )
