"""A real PostgreSQL for tests, from the system's packages; run as another user where we are root."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psycopg

from worker.local.child import free_port


def programs() -> Path | None:
    """The folder of `initdb` and `pg_ctl`; None where PostgreSQL's server is not installed."""
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
    on_path = shutil.which("pg_ctl")
    for folder in [*newest[::-1], *([Path(on_path).resolve().parent] if on_path else [])]:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


class PostgreSQL:
    """A server of its own: a free port, a folder that goes with it, a password."""

    password = "s3cret/word"  # with a character that URLs escape

    def __init__(self, bin_folder: Path) -> None:
        self._bin = bin_folder
        self._folder = Path(tempfile.mkdtemp(prefix="kc-pg-", dir="/tmp"))
        self._as = ["setpriv", f"--reuid={user}", "--clear-groups"] if (user := _unprivileged()) else []
        if user:
            shutil.chown(self._folder, user)
        word = self._folder / "password"
        word.write_text(self.password)
        word.chmod(0o644)
        self._run(
            "initdb", "--pgdata", str(self.data), "--username=kc", f"--pwfile={word}", "--auth=scram-sha-256",
            "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions",
        )  # fmt: skip
        self.port = free_port()
        self.start()

    @property
    def data(self) -> Path:
        return self._folder / "data"

    def start(self) -> None:
        settings = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self._folder} -c fsync=off -c max_connections=200"
        self._run(
            "pg_ctl", "start", "-w", "-D", str(self.data), "-l", str(self._folder / "log"), "-o", settings
        )

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "stop", "-w", "-m", mode, "-D", str(self.data))

    def url(self, database: str) -> str:
        return f"postgresql://kc:{quote(self.password, safe='')}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """A new database; its URL."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"')
        return self.url(database)

    def drop(self, database: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{database}" WITH (FORCE)')

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop("immediate")
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *args: str) -> None:
        done = subprocess.run(
            [*self._as, str(self._bin / program), *args],
            cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}")


def _unprivileged() -> str | None:
    """Who runs the server: nobody else unless we are root, whom it refuses."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
