"""`pull`: a model from the Hub into the models folder, whole and verified or not at all.

Everything is fetched and verified in a staging folder beside the models (`records.Target.staging`), which
survives any interruption, and is then renamed into place.
"""

import os
import shutil
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from worker.errors import ModelError
from worker.models.check import check
from worker.models.content import RemoteFile, matches
from worker.models.gguf import split_parts
from worker.models.records import Record, Target, locked, read_record, records, write_record
from worker.models.words import size_text

if TYPE_CHECKING:
    from worker.models.hub import Hub
    from worker.models.transfer import Report

#: The same weights in other formats, and pictures.
_SKIPPED_SUFFIXES = (
    ".bin", ".pth", ".pt", ".ckpt", ".h5", ".msgpack", ".ot", ".onnx", ".onnx_data", ".gguf", ".tflite",
    ".mlmodel", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".mp4", ".pdf",
)  # fmt: skip
_SKIPPED_FOLDERS = {"original", "onnx", "openvino", "coreml", "gguf", "metal"}
_DEFAULT_REVISION = "main"


class FileNotNamed(ModelError):
    """The repository has several GGUF files and none was named; the message lists them."""


@dataclass(frozen=True)
class Pulled:
    """The outcome of a pull.

    Attributes:
        path: the GGUF file or the model folder.
        size_bytes: size of what was asked for.
        fetched: whether anything came over the network; False where all was there.
        note: one sentence about what is there.
    """

    path: Path
    size_bytes: int
    fetched: bool
    note: str


@dataclass(frozen=True)
class Source:
    """What is asked for, and from whom.

    Attributes:
        repo: repository, "org/name".
        file: GGUF file in it; empty to take what it has.
        revision: branch, tag or commit.
        whole: take the Hugging Face layout even where there are GGUF files.
        token: Hugging Face token; None for the stored one, if any.
        endpoint: base URL of the Hub; None for the default.
        cache_dir: Hugging Face's own cache, looked into before anything is fetched; None for not.
        retry_delay_s: seconds before the first repeated request.
    """

    repo: str
    file: str = ""
    revision: str = _DEFAULT_REVISION
    whole: bool = False
    token: str | None = None
    endpoint: str | None = None
    cache_dir: Path | None = None
    retry_delay_s: float = 1.0


def pull(source: Source, models_dir: Path, report: "Report", *, force: bool = False) -> Pulled:
    """Bring a model into `models_dir`; without any network where it is there already.

    Args:
        source: what to fetch and from where.
        models_dir: the folder with `gguf/` and `hf/`.
        report: told how it goes.
        force: fetch again what is there, and replace files that came from elsewhere.

    Raises:
        FileNotNamed: several GGUF files and none was named.
        ModelError: anything else that keeps the model from being there, in words.
    """
    if not force and (there := _present(source, models_dir)):
        return there
    try:
        # Late: takes a third of a second, and is not needed (nor need be installed) where all is there.
        from worker.models.hub import Hub, HubUnavailable
    except ImportError as error:
        raise ModelError(
            "Pulling models needs huggingface-hub. Install it with `pip install 'kc-worker[models]'`."
        ) from error
    hub = Hub(source.endpoint, source.token, retry_delay_s=source.retry_delay_s)
    try:
        commit, listing = hub.files(source.repo, source.revision)
    except HubUnavailable:
        if not force and (there := _usable(source, models_dir)):
            return there
        raise
    target, names = _choose(source, models_dir, listing)
    files = [hub.described(source.repo, commit, file) for file in listing if file.name in names]
    with locked(target, lambda: report.say(f"Another process is pulling {target.name}; waiting for it.")):
        if not force and (there := _present(source, models_dir)):
            return there
        try:
            return _Pull(source, target, hub, commit, files, report, force=force).run()
        except OSError as error:
            raise ModelError(f"{target.root} cannot be written: {error.strerror or error}.") from error


def _present(source: Source, models_dir: Path) -> Pulled | None:
    """What an earlier pull of the same left, if it is still as it was. Needs no network."""
    for kind in ("gguf", "hf") if not source.whole else ("hf",):
        for record in records(models_dir, kind):
            if _same(source, record, models_dir):
                target = Target(kind, record.target, models_dir)
                if record.intact(target):
                    size = sum(file.size_bytes for file in record.files.values())
                    return Pulled(target.path, size, fetched=False, note=f"as pulled from {_origin(record)}")
    return None


def _same(source: Source, record: Record, models_dir: Path) -> bool:
    """Whether `record` is of what `source` asks for."""
    if record.repo != source.repo or source.revision not in {record.revision, record.commit}:
        return False
    if source.file:
        return record.target == _named_target(source, models_dir).name
    return not record.asked


def _origin(record: Record) -> str:
    return f"{record.repo} at {record.commit[:12]}"


def _usable(source: Source, models_dir: Path) -> Pulled | None:
    """A model put there or changed by hand, for when the Hub cannot be asked what it should be."""
    target = _named_target(source, models_dir)
    record = read_record(target.record)
    if record is not None and not _same(source, record, models_dir):
        return None
    if not target.path.exists() or not check(target.path).ok:
        return None
    size = sum(path.stat().st_size for path in [target.path, *target.path.rglob("*")] if path.is_file())
    note = "which looks right, though not as it was pulled, and the Hub cannot be reached"
    return Pulled(target.path, size, fetched=False, note=note)


def _named_target(source: Source, models_dir: Path) -> Target:
    if source.file:
        path = PurePosixPath(source.file)
        return Target("gguf", str(path.with_name(split_parts(path.name)[0])), models_dir)
    return Target("hf", source.repo.replace("/", "--"), models_dir)


def _choose(source: Source, models_dir: Path, listing: list[RemoteFile]) -> tuple[Target, set[str]]:
    """Which files of the repository are wanted, and where they go."""
    for file in listing:
        _refuse_unsafe(file.name)
    sizes = {file.name: file.size_bytes for file in listing}
    if source.file:
        return _choose_file(source, models_dir, sizes)
    heads = sorted({_head(name) for name in sizes if name.endswith(".gguf")})
    # A projector is no model of its own.
    models = [name for name in heads if not PurePosixPath(name).name.startswith("mmproj")]
    if models and not source.whole:
        if len(models) == 1:
            return Target("gguf", models[0], models_dir), _parts(models[0])
        raise FileNotNamed(_menu(source.repo, heads, sizes))
    return _choose_folder(source, models_dir, sizes)


def _refuse_unsafe(name: str) -> None:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ModelError(f"The repository has a file named {name!r}, which would leave the models folder.")


def _head(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_name(split_parts(path.name)[0]))


def _parts(name: str) -> set[str]:
    path = PurePosixPath(name)
    return {str(path.with_name(part)) for part in split_parts(path.name)}


def _choose_file(source: Source, models_dir: Path, sizes: dict[str, int]) -> tuple[Target, set[str]]:
    ggufs = sorted(name for name in sizes if name.endswith(".gguf"))
    if source.file not in sizes:
        close = get_close_matches(source.file, ggufs, n=3, cutoff=0.3) or ggufs[:3]
        meant = f" Closest: {', '.join(close)}." if close else " It has no GGUF files at all."
        raise ModelError(f"{source.repo} has no file {source.file!r}.{meant}")
    if not source.file.endswith(".gguf") or any(part.startswith(".") for part in source.file.split("/")):
        raise ModelError(
            f"{source.file} is not a GGUF file. Name one, or leave FILE out to get the whole repository."
        )
    parts = _parts(source.file)
    if absent := sorted(parts - sizes.keys()):
        raise ModelError(f"{source.repo} lacks {absent[0]}, a part of {source.file}.")
    return _named_target(source, models_dir), parts


def _choose_folder(source: Source, models_dir: Path, sizes: dict[str, int]) -> tuple[Target, set[str]]:
    names = {name for name in sizes if _wanted(name)}
    weights = {name for name in names if name.endswith(".safetensors")}
    if not weights:
        pickles = any(name.endswith((".bin", ".pth")) for name in sizes)
        other = ", only PyTorch ones, which can run code when loaded" if pickles else ""
        raise ModelError(f"{source.repo} has no safetensors files{other}. Choose another repository.")
    # Mistral's own layout of the same weights.
    if any(PurePosixPath(name).name.startswith("model") for name in weights):
        names -= {name for name in weights if name.startswith("consolidated")}
    return _named_target(source, models_dir), names


def _wanted(name: str) -> bool:
    *folders, last = name.split("/")
    hidden = any(part.startswith(".") for part in (*folders, last))
    return not hidden and not last.lower().endswith(_SKIPPED_SUFFIXES) and not _SKIPPED_FOLDERS & set(folders)


def _menu(repo: str, heads: list[str], sizes: dict[str, int]) -> str:
    lines = []
    for head in heads:
        size = sum(max(0, sizes.get(part, 0)) for part in _parts(head))
        lines.append(f"  {size_text(size):>10}  {head}")
    return "\n".join([f"{repo} has {len(heads)} GGUF models. Name one as FILE:", *lines])


class _Pull:
    """One pull that holds the lock."""

    def __init__(
        self, source: Source, target: Target, hub: "Hub", commit: str, files: list[RemoteFile],
        report: "Report", *, force: bool,
    ) -> None:  # fmt: skip
        self._source, self._target, self._hub, self._commit = source, target, hub, commit
        self._files, self._report, self._force = files, report, force

    def run(self) -> Pulled:
        self._target.staging.mkdir(parents=True, exist_ok=True)
        wanted = self._files if self._force else [f for f in self._files if not self._installed(f)]
        if wanted and not self._force:
            self._refuse_foreign(wanted)
        self._drop_stale(wanted)
        staged = [file for file in wanted if matches(self._staged(file), file)]
        missing = [file for file in wanted if file not in staged]
        self._need_room(missing)
        self._fetch(missing, sum(file.size_bytes for file in staged))
        self._install(wanted)
        shutil.rmtree(self._target.staging, ignore_errors=True)
        write_record(self._target, self._record())
        size = sum(file.size_bytes for file in self._files)
        origin = f"{self._source.repo} at {self._commit[:12]}"
        if wanted:
            return Pulled(self._target.path, size, fetched=True, note=f"pulled from {origin}")
        return Pulled(self._target.path, size, fetched=False, note=f"the same as in {origin}")

    def _installed(self, file: RemoteFile) -> bool:
        return matches(self._target.root / file.name, file)

    def _refuse_foreign(self, wanted: list[RemoteFile]) -> None:
        """A good model that came from elsewhere is not overwritten without being asked to."""
        record = read_record(self._target.record)
        ours = record is not None and record.repo == self._source.repo
        there = [file.name for file in wanted if (self._target.root / file.name).exists()]
        if not there:
            return
        if ours:
            self._report.say(f"{there[0]} is not what {self._source.repo} has; fetching it again.")
            return
        if not check(self._target.path).ok:
            self._report.say(f"{self._target.path} is damaged; fetching it again.")
            return
        origin = f"came from {_origin(record)}" if record else "was not pulled by this command"
        raise ModelError(
            f"{self._target.path} {origin} and is not what {self._source.repo} has at revision "
            f"{self._source.revision}. Move it away, or replace it with --force."
        )

    def _staged(self, file: RemoteFile) -> Path:
        return self._target.staging / "ready" / file.name

    def _part(self, file: RemoteFile) -> Path:
        identity = file.checksum[:16] or self._commit[:16]
        return self._target.staging / f"{file.name.replace('/', '--')}.{identity}.part"

    def _drop_stale(self, wanted: list[RemoteFile]) -> None:
        """Remove the beginnings of versions nobody wants any more."""
        keep = {self._part(file) for file in wanted} | {self._staged(file) for file in wanted}
        for path in self._target.staging.rglob("*"):
            if path.is_file() and path not in keep:
                path.unlink()

    def _need_room(self, missing: list[RemoteFile]) -> None:
        parts = [self._part(file) for file in missing]
        there = sum(part.stat().st_size for part in parts if part.exists())
        need = sum(file.size_bytes for file in missing) - there
        free = shutil.disk_usage(self._target.staging).free
        if need > free:
            raise ModelError(
                f"The disk is too full: {self._source.repo} needs {size_text(need)} more, "
                f"{self._target.models_dir} has {size_text(free)} free."
            )

    def _fetch(self, missing: list[RemoteFile], staged_bytes: int) -> None:
        from worker.models.transfer import download

        if not missing:
            return
        self._report.begin(staged_bytes + sum(file.size_bytes for file in missing))
        try:
            self._report.skip(staged_bytes)
            for file in missing:
                self._report.file(file.name)
                part, staged, cached = self._part(file), self._staged(file), self._cached(file)
                download(self._hub, self._source.repo, self._commit, file, part, self._report, cached)
                staged.parent.mkdir(parents=True, exist_ok=True)
                part.replace(staged)
        finally:
            self._report.end()

    def _cached(self, file: RemoteFile) -> Path | None:
        if self._source.cache_dir is None or self._force or not file.checksum:
            return None
        return self._hub.cached(self._source.repo, self._commit, file.name, self._source.cache_dir)

    def _install(self, wanted: list[RemoteFile]) -> None:
        if self._target.kind == "hf" and not self._target.path.exists():
            (self._target.staging / "ready").replace(self._target.path)
            return
        # What is opened first comes last: the first part of a split model, the configuration of a folder.
        for file in sorted(wanted, key=lambda file: (file.name != "config.json", file.name), reverse=True):
            path = self._target.root / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._staged(file).replace(path)
        _sync(self._target.root)

    def _record(self) -> Record:
        return Record(
            repo=self._source.repo,
            asked=self._source.file,
            revision=self._source.revision,
            commit=self._commit,
            target=self._target.name,
            files={file.name: file for file in self._files},
            mtimes_ns={file.name: (self._target.root / file.name).stat().st_mtime_ns for file in self._files},
        )


def _sync(folder: Path) -> None:
    """Make renames in `folder` outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
