"""More than it can do: it answers, and says 429 or 503 with a Retry-After where it does not take more."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.gateway.conftest import GatewayFactory, caller_of
from worker.local.redis import LocalRedis

SECONDS = 5

pytestmark = pytest.mark.skipif(not shutil.which("wrk"), reason="there is no wrk on this machine")

SCRIPT = """
wrk.method = "POST"
wrk.body = '{"messages": [{"role": "user", "content": "hello"}], "max_tokens": 9}'
wrk.headers["content-type"] = "application/json"
local seen, bare = {}, 0
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init() seen_by, bare_by = {}, 0 end
function response(status, headers)
  seen_by[status] = (seen_by[status] or 0) + 1
  if (status == 429 or status == 503) and not (headers["retry-after"] or headers["Retry-After"]) then bare_by = bare_by + 1 end
end
function done()
  local all, without = {}, 0
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("seen_by")) do all[status] = (all[status] or 0) + count end
    without = without + thread:get("bare_by")
  end
  for status, count in pairs(all) do print("status " .. status .. " " .. count) end
  print("without retry-after " .. without)
end
"""


def test_a_flood_is_told_to_come_back(
    open_gateway: GatewayFactory, fresh_redis: LocalRedis, tmp_path: Path
) -> None:
    gateway = open_gateway(fresh_redis.url, GATEWAY_MAX_WAITING="500")
    script = tmp_path / "flood.lua"
    script.write_text(SCRIPT)
    ran = subprocess.run(
        ["wrk", "-t", "2", "-c", "200", "-d", f"{SECONDS}s", "--timeout", "10s", "--latency", "-s", script,
         gateway.url + "/v1/tasks/llm.chat"],
        capture_output=True, text=True, timeout=SECONDS + 60, check=True,
    )  # fmt: skip
    print(ran.stdout)
    statuses = {int(status): int(count) for status, count in re.findall(r"status (\d+) (\d+)", ran.stdout)}
    assert statuses.pop(202) == 500
    assert statuses.pop(429) > 0
    assert not statuses
    assert "without retry-after 0" in ran.stdout
    assert "Socket errors" not in ran.stdout
    call = caller_of(gateway.url)
    assert call("/health/live").status == 200
    assert not call("/v1/capacity").json["queues"]["default"]["accepting"]
