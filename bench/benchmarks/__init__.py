"""The benchmarks by name, in the order they run."""

from bench.benchmark import Benchmark
from bench.benchmarks.depth import Depth
from bench.benchmarks.engines import Engines
from bench.benchmarks.gate import Gate
from bench.benchmarks.in_flight import InFlight
from bench.benchmarks.latency import Latency
from bench.benchmarks.mixed import Mixed
from bench.benchmarks.night import Night
from bench.benchmarks.throughput import Throughput

_ALL: tuple[Benchmark, ...] = (
    Throughput("throughput", latency_s=0.2, tasks=2560),
    Throughput("capacity", latency_s=0.01, tasks=2560),
    Latency(),
    InFlight(),
    Depth(),
    Mixed(),
    Night(),
    Engines(),
    Gate(),
)
BENCHMARKS = {benchmark.name: benchmark for benchmark in _ALL}
