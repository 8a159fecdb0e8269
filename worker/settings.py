"""Every setting of the worker, in groups: its unit, its bounds and why.

Settings come from the environment and from `.env` in the working directory; the environment wins.
`HOST`, `PORT`, `MODEL_PATH` and the like belong to the model servers' containers: `.env` may hold them, the
worker does not read them (see `container_settings`).
"""

import os
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlsplit

from dotenv import dotenv_values
from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from worker.container_settings import CONTAINER_SETTINGS
from worker.errors import SettingsError
from worker.redis_client import RedisAddress

ENV_FILE = Path(".env")


class _Group(BaseSettings):
    """One group of settings."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE, env_file_encoding="utf-8", env_ignore_empty=True, extra="ignore", frozen=True
    )


class RedisSettings(_Group):
    """The broker and result store.

    Attributes:
        redis_host: host name.
        redis_port: TCP port.
        redis_db: database number.
        redis_password: password; empty for none.
        redis_url: wins over the four above; redis://, rediss://, unix:// or sentinel://.
        redis_sentinel_master: name of the master the sentinels of a sentinel:// URL watch.
        result_ttl_s: seconds a result is kept after its task ended.
        stream_ttl_s: seconds a task's stream is kept after its last piece.
    """

    redis_host: str = Field(default="localhost", min_length=1)
    redis_port: int = Field(default=6379, ge=1, le=65535)
    redis_db: int = Field(default=0, ge=0)
    redis_password: SecretStr = SecretStr("")
    redis_url: SecretStr = SecretStr("")
    redis_sentinel_master: str = Field(default="mymaster", min_length=1)
    result_ttl_s: int = Field(default=86400, ge=60)
    stream_ttl_s: int = Field(default=3600, ge=1)

    @field_validator("redis_port", mode="before")
    @classmethod
    def _kubernetes_service_link(cls, value: object) -> object:
        """Kubernetes sets REDIS_PORT=tcp://10.0.0.1:6379 beside a service named redis."""
        if isinstance(value, str) and value.startswith("tcp://"):
            return urlsplit(value).port
        return value

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if url and urlsplit(url).scheme not in {"redis", "rediss", "unix", "sentinel"}:
            raise ValueError("must start with redis://, rediss://, unix:// or sentinel://")
        if "cluster" in urlsplit(url).scheme or "cluster=true" in url:
            raise ValueError("Redis Cluster is not supported; use one Redis, or Sentinel")
        return value

    @property
    def address(self) -> RedisAddress:
        """Where Redis is."""
        url = self.redis_url.get_secret_value() or self._composed_url
        return RedisAddress(url, self.redis_sentinel_master)

    @property
    def _composed_url(self) -> str:
        password = self.redis_password.get_secret_value()
        login = f":{quote(password, safe='')}@" if password else ""
        return f"redis://{login}{self.redis_host}:{self.redis_port}/{self.redis_db}"


def _split(value: object) -> object:
    """A comma-separated setting as a tuple."""
    if isinstance(value, str):
        return tuple(part.strip().rstrip("/") for part in value.split(",") if part.strip())
    return value


class BackendSettings(_Group):
    """The model servers.

    Attributes:
        llm_backend: which kind of server LLM_SERVER_URL is.
        llm_server_url: base URLs, comma-separated; requests go to the one with the fewest in flight.
        llm_api_key: bearer token; empty for none.
        llm_model: model name; empty for the server's first.
        llm_timeout: seconds one request may take.
        llm_max_concurrency: requests in flight to one server; "auto" finds it.
    """

    llm_backend: Literal["llamacpp", "vllm"] = "llamacpp"
    llm_server_url: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        default=("http://localhost:8000",), min_length=1
    )
    llm_api_key: SecretStr = SecretStr("")
    llm_model: str = ""
    llm_timeout: float = Field(default=120, gt=0, le=86400)
    llm_max_concurrency: Literal["auto"] | Annotated[int, Field(ge=1, le=100_000)] = "auto"

    @field_validator("llm_server_url")
    @classmethod
    def _http(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ValueError(f"{url!r} is not an http:// or https:// URL")
        return tuple(url.removesuffix("/v1") for url in urls)


class WorkerSettings(_Group):
    """One worker process.

    Attributes:
        worker_concurrency: tasks held in flight.
        worker_health_host: address of the health and metrics server.
        worker_health_port: its port; 0 turns it off.
        worker_shutdown_grace_s: seconds running tasks get to finish after SIGTERM; then they are handed back.
        worker_lease_s: seconds after which the tasks of a worker that fell silent are taken over.
        task_max_deliveries: workers that may die while they have a task before it is a dead letter.
        task_max_retries: times a task is tried again after errors that may pass, before it is a dead letter.
        task_retry_total_s: seconds after which a task is not tried again.
    """

    worker_concurrency: int = Field(default=256, ge=1, le=10_000)
    worker_health_host: str = "127.0.0.1"
    worker_health_port: int = Field(default=8001, ge=0, le=65535)
    worker_shutdown_grace_s: float = Field(default=10, ge=0, le=3600)
    worker_lease_s: float = Field(default=60, ge=1, le=3600)
    task_max_deliveries: int = Field(default=5, ge=1, le=100)
    task_max_retries: int = Field(default=5, ge=0, le=100)
    task_retry_total_s: float = Field(default=3600, ge=0, le=604_800)


class StorageSettings(_Group):
    """Inputs by reference.

    Attributes:
        blob_dir: folder of content-addressed blobs, or s3://bucket/prefix.
        input_dirs: folders `{"path": …}` inputs may be in, comma-separated; empty allows none.
        max_text_bytes: most bytes of one text, however it arrives.
        max_message_bytes: most bytes of one task message in Redis.
        max_input_bytes: most bytes of one picture or document, however it arrives.
        max_image_pixels: most pixels of one picture as it arrives.
        image_longest_side: pixels of the longer side of a picture as a model gets it; larger ones are made
            smaller. More pixels are more tokens.
        fetch_allow: hosts, addresses and networks that `{"url": …}` inputs may come from although they are
            not public, comma-separated.
        fetch_timeout_s: seconds in which such an input has to be there.
    """

    blob_dir: str = Field(default=".kc/blobs", min_length=1)
    input_dirs: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split)] = ()
    max_text_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)
    max_message_bytes: int = Field(default=256 * 1024, ge=1024)
    max_input_bytes: int = Field(default=32 * 1024 * 1024, ge=1024)
    max_image_pixels: int = Field(default=50_000_000, ge=1024)
    image_longest_side: int = Field(default=1024, ge=64, le=8192)
    fetch_allow: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = ()
    fetch_timeout_s: float = Field(default=30, gt=0, le=3600)

    @field_validator("fetch_allow")
    @classmethod
    def _hosts_or_networks(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            try:
                ip_network(entry, strict=False)
            except ValueError:
                if "/" in entry:
                    raise ValueError(f"{entry!r} is no host, address or network") from None
        return entries


class DocumentSettings(_Group):
    """Documents that are read.

    Attributes:
        max_document_pages: most pages one task reads.
        ocr_processes: processes that read pages, of one worker; "auto": one for every four CPUs, at most
            four, and no more than fit in half of the memory, as the container allows them. Each takes about
            800 MB once it has read a scanned page.
    """

    max_document_pages: int = Field(default=500, ge=1, le=1000)
    ocr_processes: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = "auto"


class ModelSettings(_Group):
    """Model downloads.

    Attributes:
        hf_token: Hugging Face token for gated models; empty for none.
        hf_endpoint: a mirror of the Hugging Face hub; empty for the hub itself.
        hf_cache_dir: Hugging Face's own cache.
        models_dir: folder with `gguf/` and `hf/`.
    """

    hf_token: SecretStr = SecretStr("")
    hf_endpoint: str = ""
    hf_cache_dir: Path = Path("~/.cache/huggingface")
    models_dir: Path = Path("./models")

    @field_validator("hf_cache_dir", "models_dir")
    @classmethod
    def _home(cls, path: Path) -> Path:
        return path.expanduser()


class GatewaySettings(_Group):
    """The HTTP gateway.

    Attributes:
        gateway_host: address it listens on.
        gateway_port: port it listens on.
        gateway_api_keys: who may call, comma-separated, as `kc-worker gateway key NAME` prints it; `none`
            lets everybody in who can connect, and empty does so on a loopback address only.
        gateway_cors_origins: web pages that may call it from a browser, comma-separated; empty: none.
        gateway_max_waiting: tasks that may wait in one queue before callers are told to come back later;
            0: any number.
        gateway_body_timeout_s: seconds in which a request's body has to go on.
        ocr_results: folder in which `POST /ocr/pdf` leaves what it read.
        ocr_upload: where it and `kc-worker ocr` put a copy, s3://bucket/prefix; empty: nowhere.
    """

    gateway_host: str = "127.0.0.1"
    gateway_port: int = Field(default=8081, ge=0, le=65535)
    gateway_api_keys: SecretStr = SecretStr("")
    gateway_cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = ()
    gateway_max_waiting: int = Field(default=10_000, ge=0)
    gateway_body_timeout_s: float = Field(default=30, gt=0, le=3600)
    ocr_results: Path = Path(".kc/ocr")
    ocr_upload: str = Field(default="", pattern="^(s3://.+)?$")


class BatchSettings(_Group):
    """Files and batches.

    Attributes:
        files_dir: folder of uploaded files, batches and their answers; gateways share it.
        max_file_bytes: most bytes of one uploaded file.
        batch_max_lines: most lines of one batch; 0: any number.
        batch_in_flight: lines of one batch that wait in the queue or run at once; "auto": four times what the
            model servers take, 64 to 4,096.
    """

    files_dir: Path = Path(".kc/files")
    max_file_bytes: int = Field(default=512 * 1024 * 1024, ge=1024)
    batch_max_lines: int = Field(default=1_000_000, ge=0)
    batch_in_flight: Literal["auto"] | Annotated[int, Field(ge=1, le=100_000)] = "auto"


class DatabaseSettings(_Group):
    """What is remembered in SQL.

    Attributes:
        database_url: sqlite:///FILE (sqlite:////FILE from the root) or postgresql://USER:PASSWORD@HOST:PORT/NAME;
            workers, gateways and commands share it.
    """

    database_url: SecretStr = SecretStr("sqlite:///.kc/kc.db")

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if urlsplit(url).scheme not in {"sqlite", "postgresql"}:
            raise ValueError("must start with sqlite:/// or postgresql://")
        if url.startswith("sqlite:") and url.removeprefix("sqlite:///") in {url, "", ":memory:"}:
            raise ValueError("names no file: write sqlite:///FILE, or sqlite:////FILE from the root")
        return value

    @property
    def from_anywhere(self) -> str:
        """The URL, for a process in another folder."""
        url = self.database_url.get_secret_value()
        file = url.removeprefix("sqlite:///")
        return url if file == url else f"sqlite:///{Path(file).absolute()}"


GROUPS: tuple[type[_Group], ...] = (
    RedisSettings, BackendSettings, WorkerSettings, StorageSettings, ModelSettings, GatewaySettings,
    BatchSettings, DatabaseSettings, DocumentSettings,
)  # fmt: skip


class Settings:
    """All groups, read once.

    Attributes:
        redis: the broker and result store.
        backend: the model servers.
        worker: one worker process.
        storage: inputs by reference.
        models: model downloads.
        gateway: the HTTP gateway.
        batch: files and batches.
        database: what is remembered in SQL.
        documents: documents that are read.
    """

    def __init__(self) -> None:
        self.redis = RedisSettings()
        self.backend = BackendSettings()
        self.worker = WorkerSettings()
        self.storage = StorageSettings()
        self.models = ModelSettings()
        self.gateway = GatewaySettings()
        self.batch = BatchSettings()
        self.database = DatabaseSettings()
        self.documents = DocumentSettings()

    @classmethod
    def load(cls) -> Self:
        """Read the environment and `.env`.

        Raises:
            SettingsError: naming each setting that is misspelt, missing or out of range.
        """
        _refuse_misspelt()
        problems = []
        for group in GROUPS:
            try:
                group()
            except ValidationError as error:
                problems += [_explain(dict(problem)) for problem in error.errors()]
        if problems:
            raise SettingsError("; ".join(problems))
        return cls()


def _explain(problem: dict[str, Any]) -> str:
    """One pydantic error as `NAME: what is wrong (it is VALUE)`; secrets are not repeated."""
    name = str(problem["loc"][0])
    shown = "hidden" if _is_secret(name) else repr(problem["input"])
    return f"{name.upper()}: {str(problem['msg']).removeprefix('Value error, ')} (it is {shown})"


def setting_names() -> list[str]:
    """Every setting the worker reads, as environment variables."""
    return [name.upper() for group in GROUPS for name in group.model_fields]


def _is_secret(name: str) -> bool:
    return any(word in name.lower() for word in ("password", "key", "token", "url"))


#: Of names in the environment that are meant for us.
_PREFIXES = ("LLM_", "REDIS_", "WORKER_", "TASK_", "GATEWAY_", "BATCH_", "FETCH_", "DATABASE_", "OCR_")


def _refuse_misspelt() -> None:
    """A misspelt name would be ignored in silence, and its default used.

    In `.env`, which is ours, every unknown name is refused (Compose's own are known). The environment is
    shared with other programs: there only a name one slip away from ours is refused.
    """
    known = [*setting_names(), *CONTAINER_SETTINGS]
    if ENV_FILE.is_file():
        for name in dotenv_values(ENV_FILE):
            if name.upper() not in known and not name.startswith(("COMPOSE_", "DOCKER_")):
                raise SettingsError(f"{ENV_FILE}: {name} is not a setting{_meant(name, known)}")
    for name in os.environ:
        ours = name.startswith(_PREFIXES)
        if ours and name not in known and (meant := _meant(name, known)):
            raise SettingsError(f"{name} is not a setting{meant}")


def _meant(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name.upper(), list(known), n=1, cutoff=0.88)
    return f"; did you mean {close[0]}?" if close else ""


@cache
def settings() -> Settings:
    """The settings of this process."""
    return Settings.load()
