"""What the containers run, started here as plain processes: Redis, the worker, the models service."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import redis

from tests.containers.compose import BIN, ROOT, exec_form, last, mapped, merged
from tests.containers.processes import START_S, Container, environment, programs
from worker.local.child import HOST, free_port
from worker.local.llamacpp import bundled_model
from worker.local.redis import LocalRedis, find_redis


def redis_container(directory: Path, password: str) -> tuple[Container, int]:
    """The redis service of the compose file, and its port."""
    service = merged(ROOT, "base", env={"REDIS_PASSWORD": password})["services"]["redis"]
    port = free_port()
    data = directory / "data"
    data.mkdir(exist_ok=True)
    command = [str(data) if word == "/data" else word for word in service["command"]]
    command += ["--port", str(port), "--bind", HOST]
    kind, *words = service["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    check = ["sh", "-c", words[0].replace("-p 6379", f"-p {port}")]
    server = Path(find_redis())
    path = programs(directory, valkey_server=server, valkey_cli=server.with_name("redis-cli"))
    return Container(command, check, environment(service, PATH=path), directory), port


@pytest.mark.parametrize("password", ["", "s3cret pa$word"])
def test_redis_is_unhealthy_then_healthy_then_unhealthy(
    tmp_path: Path, containers: list[Container], password: str
) -> None:
    container, port = redis_container(tmp_path, password)
    containers.append(container)
    assert not container.healthy()
    server = container.start()
    server.wait_until(container.healthy, START_S)
    with redis.Redis(host=HOST, port=port, password=password or None) as client:
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert client.config_get("appendonly")["appendonly"] == "yes"
    server.stop()
    assert not container.healthy()


def test_redis_is_unhealthy_where_the_password_is_wrong_or_missing(
    tmp_path: Path, containers: list[Container]
) -> None:
    container, _ = redis_container(tmp_path, "right")
    containers.append(container)
    container.start().wait_until(container.healthy, START_S)
    assert not container.healthy(REDISCLI_AUTH="wrong")
    assert not container.healthy(REDISCLI_AUTH="")


def test_redis_keeps_what_it_acknowledged_over_kill_9(tmp_path: Path, containers: list[Container]) -> None:
    container, port = redis_container(tmp_path, "")
    containers.append(container)
    server = container.start()
    server.wait_until(container.healthy, START_S)
    with redis.Redis(host=HOST, port=port) as client:
        client.lpush("default", "a task")
    server.process.kill()
    server.process.wait()
    container.start().wait_until(container.healthy, START_S)
    with redis.Redis(host=HOST, port=port) as client:
        assert client.lrange("default", 0, -1) == [b"a task"]


def fetch(models: Path, *, file: str, model: str = "model.gguf") -> subprocess.CompletedProcess[str]:
    """The `models` service with a Hub that nobody answers for."""
    service = merged(ROOT, "llamacpp", env={"MODEL_REPO": "org/name", "MODEL_FILE": file})["services"][
        "models"
    ]
    command = mapped(service["command"], "Dockerfile.worker", "")
    env = environment(service, PATH=f"{BIN}:{os.environ['PATH']}", HOME=str(models), MODELS_DIR=str(models))
    env |= {"MODEL": str(models / model), "HF_ENDPOINT": f"http://{HOST}:{free_port()}"}
    env |= {"HF_HOME": str(models), "HF_CACHE_DIR": str(models)}
    return subprocess.run(
        command, env=env, cwd=models, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_model_that_is_there_is_checked_and_nothing_is_fetched(tmp_path: Path) -> None:
    shutil.copy(bundled_model(), tmp_path / "model.gguf")
    done = fetch(tmp_path, file="other.gguf")
    assert done.returncode == 0, done.stderr
    assert "ok" in done.stdout


def test_a_pulled_model_is_linked_to_where_the_server_looks(tmp_path: Path) -> None:
    (tmp_path / "gguf").mkdir()
    shutil.copy(bundled_model(), tmp_path / "gguf" / "small.gguf")
    done = fetch(tmp_path, file="small.gguf")
    assert done.returncode == 0, done.stderr
    assert str((tmp_path / "model.gguf").readlink()) == "gguf/small.gguf"


def test_a_model_that_cannot_be_had_stops_the_start_in_words(tmp_path: Path) -> None:
    done = fetch(tmp_path, file="absent.gguf")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "model.gguf").is_symlink()


def test_a_damaged_model_stops_the_start_in_words(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(bundled_model().read_bytes()[:100_000])
    done = fetch(tmp_path, file="small.gguf")
    assert done.returncode != 0
    assert "unusable" in done.stdout


def test_the_worker_is_unhealthy_then_healthy_then_unhealthy(
    tmp_path: Path, containers: list[Container], llama_url: str
) -> None:
    service = merged(ROOT, "llamacpp", ours=True)["services"]["worker"]
    command = exec_form(last("Dockerfile.worker", "", "CMD"))
    _, *words = service["healthcheck"]["test"]
    ready = mapped(words, "Dockerfile.worker", "")
    live = mapped(exec_form(last("Dockerfile.worker", "", "HEALTHCHECK")), "Dockerfile.worker", "")
    with LocalRedis() as broker:
        broker.wait_ready()
        env = environment(
            service, PATH=f"{BIN}:{os.environ['PATH']}", PYTHONPATH=str(ROOT), REDIS_HOST=HOST,
            REDIS_PORT=str(broker.port), LLM_SERVER_URL=llama_url, WORKER_HEALTH_HOST=HOST,
            WORKER_HEALTH_PORT=str(free_port()), BLOB_DIR=str(tmp_path / "blobs"),
        )  # fmt: skip
        container = Container(command, ready, env, tmp_path)
        containers.append(container)
        assert not container.healthy()
        assert not container.healthy(live)
        server = container.start()
        server.wait_until(container.healthy, START_S)
        assert container.healthy(live)
        broker.stop()
        assert not container.healthy()
        assert container.healthy(live), "a worker that waits for Redis is not to be restarted"
    server.stop()
    assert not container.healthy(live)
    assert container.healthy(live, WORKER_HEALTH_PORT="0"), "where the page is off there is nothing to check"
