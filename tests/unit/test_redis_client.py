"""One address, the URL each library wants."""

import pytest

from worker.redis_client import RedisAddress


@pytest.mark.parametrize(
    ("url", "broker", "results"),
    [
        ("redis://h:1/2", "redis://h:1/2", "redis://h:1/2"),
        ("rediss://h:1/2", "rediss://h:1/2?ssl_cert_reqs=required", "rediss://h:1/2?ssl_cert_reqs=required"),
        (
            "unix:///run/r.sock?db=3",
            "redis+socket:///run/r.sock?virtual_host=3",
            "socket:///run/r.sock?virtual_host=3",
        ),
        ("sentinel://a:1;sentinel://b:2", "sentinel://a:1;sentinel://b:2", "sentinel://a:1;sentinel://b:2"),
    ],
)
def test_each_library_gets_its_own_spelling(url: str, broker: str, results: str) -> None:
    address = RedisAddress(url)
    assert (address.broker_url, address.result_url) == (broker, results)


async def test_a_dead_redis_is_a_sentence_without_the_password() -> None:
    reason = await RedisAddress("redis://:hunter2@127.0.0.1:1/0").ping(1)
    assert reason is not None
    assert "hunter2" not in reason
    assert reason.startswith("Redis at redis://:***@127.0.0.1:1/0")
