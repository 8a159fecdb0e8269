"""One plain `celery -A worker worker` keeps a batching server full."""

import psutil

from tests.conftest import WorkerFactory, connected_producer
from worker.local.redis import LocalRedis
from worker.local.scripted import LocalScripted


def test_256_chats_are_in_flight_on_a_few_threads_and_little_memory(
    worker: WorkerFactory, fresh_redis: LocalRedis
) -> None:
    messages = [{"role": "user", "content": "hello"}]
    with LocalScripted("vllm", latency_s=3) as server:
        server.wait_ready()
        env = {"LLM_MAX_CONCURRENCY": "256"}  # known, where it would be found out otherwise
        process = worker(redis_url=fresh_redis.url, llm_url=server.url, backend="vllm", env=env)
        with connected_producer(fresh_redis.url) as producer:
            results = [producer.send_task("llm.chat", kwargs={"messages": messages}) for _ in range(256)]
            threads = rss_bytes = 0
            running = psutil.Process(process.pid)
            while not results[-1].ready():
                threads = max(threads, running.num_threads())
                rss_bytes = max(rss_bytes, running.memory_info().rss)
            assert all(result.get(timeout=60)["choices"] for result in results)
        assert server.seen()["most_in_flight"] >= 250
    assert threads < 20
    assert rss_bytes < 200e6
