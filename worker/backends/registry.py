"""The kinds of server LLM_BACKEND may name."""

from typing import Literal

from worker.backends.base import Backend, BackendOptions
from worker.backends.fleet import Fleet
from worker.backends.kinds import Kind
from worker.backends.llamacpp import LlamaCpp
from worker.backends.vllm import Vllm

BackendName = Literal["llamacpp", "vllm"]

KINDS: dict[BackendName, type[Kind]] = {"llamacpp": LlamaCpp, "vllm": Vllm}


def create_backend(kind: BackendName, options: BackendOptions) -> Backend:
    """The servers of `options` as one `Backend`; connects when first used, in the event loop that uses it.

    Make one for each event loop.
    """
    return Fleet(KINDS[kind](), options)
