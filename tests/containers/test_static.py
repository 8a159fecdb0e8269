"""Compose files, Dockerfiles and `.env.sample`, without starting anything (part of `make check`)."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values

from tests.containers.compose import BIN, DOCKERFILES, ROOT, VARIANTS, instructions, last, merged, run_config
from worker.container_settings import CONTAINER_SETTINGS
from worker.settings import (
    GROUPS,
    BatchSettings,
    GatewaySettings,
    Settings,
    setting_names,
)

SAMPLE = ROOT / ".env.sample"
SERVERS = ("llama-cpp-python", "llama-server")
FINAL_STAGES = (
    ("Dockerfile.worker", ""),
    ("Dockerfile.vllm", ""),
    ("Dockerfile.llamacpp", "llama-server"),
    ("Dockerfile.llamacpp", "llama-cpp-python"),
)
#: Set by Compose itself or read by it, not by anything of ours.
_COMPOSE_OWN = {"COMPOSE_FILE", "COMPOSE_PATH_SEPARATOR"}


@pytest.fixture(params=["empty environment", ".env.sample as .env"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The compose files in a folder of their own."""
    for file in ROOT.glob("docker-compose*.yml"):
        shutil.copy(file, tmp_path)
    if request.param != "empty environment":
        shutil.copy(SAMPLE, tmp_path / ".env")
    return tmp_path


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def services(project: Path, variant: str) -> dict[str, Any]:
    """Every service of one variant, the optional worker too, by name."""
    found: dict[str, Any] = merged(project, variant, ours=True)["services"]
    return found


def test_plain_up_starts_what_the_variant_says_and_no_worker(project: Path, variant: str) -> None:
    expected = {"redis"} if variant == "base" else {"redis", "models", "llm-server"}
    assert set(merged(project, variant)["services"]) == expected


def test_profiles_add_the_worker_the_gateway_and_posters(services: dict[str, Any], variant: str) -> None:
    assert set(services) == {"redis", "worker", "gateway", "posters"} | (
        set() if variant == "base" else {"models", "llm-server"}
    )


def test_every_image_has_a_fixed_tag(services: dict[str, Any]) -> None:
    for service in services.values():
        assert re.fullmatch(r".+:(?!latest$)[^:/]+", service["image"])


def test_ports_are_published_on_this_machine_alone(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service.get("network_mode") != "host"
        assert list(service["networks"]) == ["private"]
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1"


def test_everything_that_keeps_running_has_a_healthcheck_limits_and_a_restart_policy(
    services: dict[str, Any],
) -> None:
    for name, service in services.items():
        assert int(service["deploy"]["resources"]["limits"]["memory"]) > 0
        assert "no-new-privileges:true" in service["security_opt"]
        if name in {"models", "posters"}:
            assert service["restart"] == "no"
            continue
        assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
        assert service["restart"] == "unless-stopped"
        assert service["stop_grace_period"]
        if (
            name != "redis"
        ):  # whose image starts as root to own its volume, and then drops to a user of its own
            assert service["cap_drop"] == ["ALL"]


def test_each_service_waits_for_what_it_needs(services: dict[str, Any]) -> None:
    waits = {
        name: {needed: how["condition"] for needed, how in service.get("depends_on", {}).items()}
        for name, service in services.items()
    }
    assert waits["worker"]["redis"] == waits["gateway"]["redis"] == "service_healthy"
    assert waits["posters"] == {"redis": "service_healthy", "worker": "service_healthy"}
    if "llm-server" in services:
        assert waits["llm-server"] == {"models": "service_completed_successfully"}
        assert waits["worker"]["llm-server"] == "service_healthy"


def test_the_worker_in_a_container_finds_redis_and_the_model_server(
    services: dict[str, Any], variant: str
) -> None:
    environment = services["worker"]["environment"]
    assert (environment["REDIS_HOST"], environment["REDIS_PORT"]) == ("redis", "6379")
    if "llm-server" in services:
        backend = "llamacpp" if variant.startswith("llamacpp") else "vllm"
        assert environment["LLM_BACKEND"] == backend
        assert environment["LLM_SERVER_URL"] == "http://llm-server:8000"


def test_the_worker_in_a_container_gets_every_setting_that_concerns_it(services: dict[str, Any]) -> None:
    not_in_containers = {"REDIS_URL", "REDIS_SENTINEL_MASTER", "HF_TOKEN", "HF_CACHE_DIR", "HF_ENDPOINT"}
    gateways = {name.upper() for group in (GatewaySettings, BatchSettings) for name in group.model_fields}
    not_in_containers |= {"MODELS_DIR"} | gateways
    assert set(services["worker"]["environment"]) == set(setting_names()) - not_in_containers
    assert gateways <= set(services["gateway"]["environment"])


def test_redis_keeps_its_data_and_drops_nothing_when_full(services: dict[str, Any]) -> None:
    redis = services["redis"]
    options = dict(zip(redis["command"][1::2], redis["command"][2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "everysec"
    assert options["--maxmemory-policy"] == "noeviction"
    assert [(one["type"], one["target"]) for one in redis["volumes"]] == [("volume", options["--dir"])]


@pytest.mark.parametrize("server", SERVERS)
def test_the_llamacpp_server_is_chosen_by_a_setting(project: Path, server: str) -> None:
    for variant, device in (("llamacpp", "cpu"), ("llamacpp-gpu", "cuda")):
        llm = merged(project, variant, env={"LLAMACPP_SERVER": server})["services"]["llm-server"]
        assert llm["build"]["target"] == server
        assert llm["build"]["args"]["DEVICE"] == device
        assert llm["image"] == f"kc-llamacpp:{server}-{device}"


def test_only_the_gpu_overrides_ask_for_gpus(services: dict[str, Any], variant: str) -> None:
    reservations = services.get("llm-server", {}).get("deploy", {}).get("resources", {}).get("reservations")
    assert bool(reservations) == variant.endswith("-gpu")


def test_all_layers_go_to_the_gpu_where_nothing_else_is_said(project: Path) -> None:
    def layers(variant: str, **env: str) -> str:
        return str(merged(project, variant, env=env)["services"]["llm-server"]["environment"]["N_GPU_LAYERS"])

    assert layers("llamacpp") == "0"
    assert layers("llamacpp-gpu") == "-1"
    assert layers("llamacpp-gpu", N_GPU_LAYERS="20") == "20"


def test_vllm_has_one_kind_of_shared_memory(project: Path) -> None:
    llm = merged(project, "vllm-gpu")["services"]["llm-server"]
    assert ("shm_size" in llm) != ("ipc" in llm)
    assert "VLLM_PORT" not in llm["environment"]


def test_a_repository_without_its_file_is_refused_in_words(project: Path) -> None:
    files = ("-f", "docker-compose.yml", "-f", "docker-compose.llamacpp.yml")
    done = run_config(project, *files, "config", env={"MODEL_REPO": "org/name"})
    assert done.returncode != 0
    assert "Name the GGUF file of MODEL_REPO" in done.stderr


def test_with_the_sample_compose_starts_redis_alone(project: Path) -> None:
    assert services_with(project, SAMPLE.read_text()) == {"redis"}


@pytest.mark.parametrize("line", re.findall(r"^# (COMPOSE_FILE=.+)$", SAMPLE.read_text(), re.MULTILINE))
def test_each_compose_file_line_of_the_sample_finds_the_model_server(project: Path, line: str) -> None:
    chosen = SAMPLE.read_text().replace("\nCOMPOSE_FILE=docker-compose.yml\n", f"\n{line}\n")
    assert {"redis", "models", "llm-server"} <= services_with(project, chosen)


def services_with(project: Path, env_file: str) -> set[str]:
    (project / ".env").write_text(env_file)
    return set(run_config(project, "config", "--services", env={}).stdout.split())


def test_no_compose_file_names_a_version() -> None:
    for file in ROOT.glob("docker-compose*.yml"):
        assert not re.search(r"^version:", file.read_text(), re.MULTILINE)


def test_every_compose_file_begins_with_what_it_is_and_the_command_for_it() -> None:
    for file in ROOT.glob("docker-compose*.yml"):
        head = file.read_text().split("\n\n")[0]
        assert head.startswith("# ")
        assert "docker compose" in head
        assert file.name in head or file.name == "docker-compose.yml"


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_hadolint_has_nothing_to_say(dockerfile: str) -> None:
    command = [str(BIN / "hadolint"), "--config", str(ROOT / ".hadolint.yaml"), str(ROOT / dockerfile)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_every_base_image_is_pinned(dockerfile: str) -> None:
    found = instructions(dockerfile)
    defaults = dict(one.value.split("=", 1) for one in found if one.name == "ARG" and "=" in one.value)
    stages = {one.stage for one in found}
    bases = [one.value.split()[0] for one in found if one.name == "FROM"]
    for base in bases:
        filled = re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], base)
        assert filled in stages or re.fullmatch(r".+:(?!latest$)[^:]*\d+\.?\d*.*", filled), base


@pytest.mark.parametrize(("dockerfile", "stage"), FINAL_STAGES)
def test_every_image_runs_as_a_user_and_says_how_to_start_check_and_stop_it(
    dockerfile: str, stage: str
) -> None:
    assert last(dockerfile, stage, "USER") == "1000:1000"
    assert last(dockerfile, stage, "STOPSIGNAL") == "SIGTERM"
    assert "CMD [" in last(dockerfile, stage, "HEALTHCHECK")
    assert last(dockerfile, stage, "CMD").startswith("[")
    assert "org.opencontainers.image.title" in last(dockerfile, stage, "LABEL")


def test_the_images_install_the_versions_of_the_lock() -> None:
    def pins(path: Path) -> dict[str, str]:
        """Requirement lines with their hashes, by name, version and marker."""
        lines = path.read_text().replace(" \\\n", " ").splitlines()
        return {line.split(" --hash")[0].split(" ;")[0].strip(): line for line in lines if "==" in line}

    whole, production = pins(ROOT / "requirements.lock"), pins(ROOT / "docker" / "worker.lock")
    assert production.keys() <= whole.keys(), (
        "docker/worker.lock is older than requirements.lock: `make lock`"
    )
    assert not production.keys() & {name for name in whole if name.startswith(("pytest=", "ruff=", "mypy="))}
    assert all("--hash=sha256:" in line for line in production.values())


def test_every_file_an_image_copies_is_there_and_reaches_the_build() -> None:
    allowed = [
        line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    for dockerfile in DOCKERFILES:
        for one in instructions(dockerfile):
            if one.name == "COPY" and "--from" not in one.value:
                for source in one.value.split()[:-1]:
                    assert (ROOT / source).exists()
                    assert source.split("/")[0] in allowed


def test_entry_scripts_are_executable() -> None:
    for script in [*(ROOT / "docker").glob("*.sh"), ROOT / "docker" / "healthcheck.py"]:
        assert script.stat().st_mode & 0o111, script


def sample_lines() -> dict[str, str]:
    """Names and values of `.env.sample`, those that are commented out too."""
    lines = [re.sub(r"^#(?=[A-Z_]+=)", "", line) for line in SAMPLE.read_text().splitlines()]
    pairs = [line.split("=", 1) for line in lines if re.match(r"[A-Z_]+=", line)]
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names))
    return {name: value.strip("'") for name, value in pairs}


def test_the_sample_lists_every_setting_and_no_other() -> None:
    assert set(sample_lines()) - _COMPOSE_OWN == {*setting_names(), *CONTAINER_SETTINGS}


def test_no_name_is_both_a_setting_of_the_worker_and_of_a_container() -> None:
    assert not set(setting_names()) & set(CONTAINER_SETTINGS)


def test_a_purpose_stands_above_each_setting() -> None:
    previous = ""
    for line in SAMPLE.read_text().splitlines():
        if re.match(r"#?[A-Z_]+=", line):
            assert re.match(r"# .*\S|#?[A-Z_]+=", previous), line
        previous = line


def test_the_samples_values_are_the_defaults_of_the_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def everything() -> dict[str, Any]:
        Settings.load()
        return {name: value for group in GROUPS for name, value in group().model_dump().items()}

    for name in (*setting_names(), *CONTAINER_SETTINGS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    without = everything()
    shutil.copy(SAMPLE, tmp_path / ".env")
    assert everything() == without


def test_the_samples_values_are_the_defaults_of_the_containers(tmp_path: Path, variant: str) -> None:
    for file in ROOT.glob("docker-compose*.yml"):
        shutil.copy(file, tmp_path)
    without = merged(tmp_path, variant, ours=True)
    shutil.copy(SAMPLE, tmp_path / ".env")
    with_sample = merged(tmp_path, variant, ours=True)
    for config in (without, with_sample):
        # The worker's own settings are handed on as they are; their defaults are checked above.
        ours = {"worker", "gateway", "posters"}
        for name in ours:
            del config["services"][name]["environment"]
        for name in set(config["services"]) - ours:
            environment = config["services"][name]["environment"]
            config["services"][name]["environment"] = {
                key: value or None for key, value in environment.items()
            }
    assert with_sample == without


def test_every_variable_of_a_compose_file_is_a_known_setting() -> None:
    known = {*setting_names(), *CONTAINER_SETTINGS}
    used = set()
    for file in ROOT.glob("docker-compose*.yml"):
        code = "\n".join(line for line in file.read_text().splitlines() if not line.lstrip().startswith("#"))
        used |= set(re.findall(r"\$\{(\w+)", code))
    assert used <= known
    # The others are read by the worker itself.
    assert set(CONTAINER_SETTINGS) <= used


def test_the_sample_is_readable_by_other_dotenv_readers() -> None:
    assert dotenv_values(SAMPLE)["CUDA_ARCHITECTURES"] == "75;80;86;89;90"
