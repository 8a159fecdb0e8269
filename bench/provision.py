"""The peers' environments under `.engines/`, installed when a benchmark first needs them.

Not in `.venv`: the product needs none of it, and arq wants a Redis client older than ours.
"""

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Environment:
    """One virtual environment, made from a locked list of packages.

    Attributes:
        name: of its folder under `.engines/` and of its lock in this folder.
    """

    name: str

    @property
    def folder(self) -> Path:
        """Where it is, installed or not."""
        return REPOSITORY / ".engines" / f"bench-{self.name}"

    def program(self, name: str) -> str:
        """Path of one of its programs; the environment is installed first where it is not."""
        self.ensure()
        return str(self.folder / "bin" / name)

    def ensure(self) -> None:
        """Install it, unless its stamp says that it was made with this lock and this Python."""
        lock = Path(__file__).with_name(f"{self.name}.lock")
        wanted = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
        stamp = self.folder / ".stamp"
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        print(f"Installing {lock.name} into {self.folder.relative_to(REPOSITORY)} …", flush=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.folder], check=True)
        python = str(self.folder / "bin" / "python")
        install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python]
        subprocess.run([*install, "--no-deps", "--require-hashes", "-r", lock], check=True)
        stamp.write_text(wanted)


ARQ = Environment("arq")
PEERS = Environment("peers")
