"""A wrong setting stops the process with one message that names it."""

from pathlib import Path

import pytest

from worker.errors import SettingsError
from worker.settings import Settings


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("REDIS_URL", "LLM_SERVER_URL", "LLM_BACKEND", "WORKER_HEALTH_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_defaults_are_those_of_the_contract() -> None:
    settings = Settings.load()
    assert settings.redis.address.url == "redis://localhost:6379/0"
    assert settings.backend.llm_backend == "llamacpp"
    assert settings.backend.llm_server_url == ("http://localhost:8000",)
    assert settings.backend.llm_timeout == 120
    assert settings.backend.llm_max_concurrency == "auto"
    assert settings.worker.worker_concurrency == 256
    assert settings.worker.worker_health_port == 8001
    assert (settings.gateway.gateway_host, settings.gateway.gateway_port) == ("127.0.0.1", 8081)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("REDIS_PORT", "99999", "REDIS_PORT"),
        ("REDIS_PORT", "six", "REDIS_PORT"),
        ("REDIS_URL", "http://localhost", "REDIS_URL: must start with redis://"),
        ("REDIS_URL", "redis://localhost?cluster=true", "Redis Cluster is not supported"),
        ("LLM_BACKEND", "ollama", "LLM_BACKEND: Input should be 'llamacpp' or 'vllm'"),
        ("LLM_SERVER_URL", "localhost:8000", "LLM_SERVER_URL: 'localhost:8000' is not an http"),
        ("LLM_TIMEOUT", "0", "LLM_TIMEOUT"),
        (
            "DATABASE_URL",
            "mysql://root:pass@localhost/x",
            "DATABASE_URL: must start with sqlite:/// or postgresql:// (it is hidden)",
        ),
        ("DATABASE_URL", "sqlite://kc.db", "DATABASE_URL: names no file: write sqlite:///FILE"),
        ("DATABASE_ULR", "x", "did you mean DATABASE_URL?"),
        ("LLM_MAX_CONCURRENCY", "many", "LLM_MAX_CONCURRENCY"),
        ("WORKER_CONCURRENCY", "0", "WORKER_CONCURRENCY"),
        ("LLM_BACKED", "vllm", "LLM_BACKED is not a setting; did you mean LLM_BACKEND?"),
        ("WORKER_CONCURENCY", "8", "did you mean WORKER_CONCURRENCY?"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    assert says in str(caught.value)


def test_a_database_is_the_same_from_another_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Settings.load().database.from_anywhere == f"sqlite:///{tmp_path}/.kc/kc.db"
    for url in ("sqlite:////var/lib/kc.db", "postgresql://kc:word@host/kc"):
        monkeypatch.setenv("DATABASE_URL", url)
        assert Settings.load().database.from_anywhere == url


def test_all_wrong_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PORT", "0")
    monkeypatch.setenv("LLM_TIMEOUT", "-1")
    with pytest.raises(SettingsError, match=r"REDIS_PORT.*LLM_TIMEOUT"):
        Settings.load()


def test_secrets_are_not_repeated_in_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "ftp://:hunter2@localhost")
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    assert "hunter2" not in str(caught.value)


def test_an_unknown_name_in_the_env_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("COMPOSE_FILE=docker-compose.yml\nLLM_BACKENDS=vllm\n")
    with pytest.raises(SettingsError, match="LLM_BACKENDS is not a setting; did you mean LLM_BACKEND"):
        Settings.load()


def test_the_env_file_is_read_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("LLM_BACKEND=vllm\nWORKER_CONCURRENCY=7\nMODEL_PATH=/models/model.gguf\n")
    monkeypatch.setenv("WORKER_CONCURRENCY", "9")
    settings = Settings.load()
    assert settings.backend.llm_backend == "vllm"
    assert settings.worker.worker_concurrency == 9


def test_several_servers_are_a_comma_separated_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_SERVER_URL", "http://a:8000/, http://b:8000/v1")
    assert Settings.load().backend.llm_server_url == ("http://a:8000", "http://b:8000")


def test_a_password_is_quoted_into_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "p@ss/word")
    monkeypatch.setenv("REDIS_HOST", "redis")
    address = Settings.load().redis.address
    assert address.url == "redis://:p%40ss%2Fword@redis:6379/0"
    assert address.shown == "redis://:***@redis:6379/0"


def test_a_kubernetes_service_link_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PORT", "tcp://10.0.0.1:6380")
    assert Settings.load().redis.redis_port == 6380


def test_names_of_other_programs_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PORT_6379_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("WORKER_NODE_NAME", "a")
    Settings.load()
