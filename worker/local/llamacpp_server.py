"""llama.cpp's own server in a process of its own: `python -m worker.local.llamacpp_server --model FILE …`.

It ends with SIGTERM; it is not a public command (`kc-worker up` is).
"""

import argparse
import os
import sys
import threading
from pathlib import Path

from worker import machine

_QUIET = 2  # llama.cpp verbosity: warnings and errors
_PROMPT_CACHE_MIB = 256  # llama.cpp's own default is 8 GiB


def physical_cores() -> int:
    """Cores this process may use, hyper-threads counted once: more threads make llama.cpp slower."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # macOS
        return max(1, (os.cpu_count() or 2) // 2)
    cores = set()
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text().strip() if siblings.exists() else str(cpu))
    return min(len(cores), machine.cpus())


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m worker.local.llamacpp_server")
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--projector", help="mmproj GGUF file, with which a vision-language model sees")
    parser.add_argument("--name", help="model name in answers; the file's name where none is given")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=4, help="requests worked on at once")
    parser.add_argument("--context", type=int, default=2048, help="tokens of prompt and answer, each request")
    parser.add_argument("--embeddings", action="store_true", help="serve /v1/embeddings too")
    arguments = parser.parse_args()

    # Waiting threads sleep instead of spinning: six times faster where others use the cores too.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import xllamacpp
    except ImportError as error:
        sys.exit(f"llama.cpp cannot be loaded: {error}. On Debian or Ubuntu: apt-get install libgomp1.")

    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.model_alias = {arguments.name or Path(arguments.model).stem}
    if arguments.projector:
        params.mmproj.path = arguments.projector
    params.hostnames = [arguments.host]
    params.port = arguments.port
    params.n_parallel = arguments.slots
    params.n_ctx = arguments.context * arguments.slots  # llama.cpp divides it among the slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = physical_cores()
    params.endpoint_metrics = params.endpoint_slots = True
    params.ui = False
    params.cache_ram_mib = _PROMPT_CACHE_MIB
    params.verbosity = _QUIET
    if arguments.embeddings:
        # With a pooling type the server embeds and still completes. An embedding input must fit one batch.
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        # llama.cpp aborts unless the batch is a multiple of the slots (llama.cpp#27175).
        batch = max(arguments.context, 512)
        params.n_batch = params.n_ubatch = -(-batch // arguments.slots) * arguments.slots
    server = xllamacpp.Server(params)  # returns when the model is loaded
    print(f"listening on {server.listening_address}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
