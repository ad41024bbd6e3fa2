"""test_redis_server.py as a script: the known output, what it leaves, how it fails."""

import os
import subprocess
import sys

import pytest
import redis

import test_redis_server as checks
from tests.kit import ROOT

KNOWN = """\
🚀 Redis Server Test Script
==================================================
✅ Redis connection successful
📊 Redis version: *
📊 Connected clients: *
📊 Used memory: *
📊 Max memory: *

🧪 Testing basic operations...
✅ SET/GET operations work
✅ DELETE operations work

🧪 Testing Redis Streams...
✅ Added message to stream: *
✅ Stream read operations work
✅ Stream cleanup successful
"""

KNOWN_END = """\
🔍 Starting retrieval job...
📊 Retrieving 100 records from Redis...
✅ Successfully retrieved 100 records

==================== STEP 4: VERIFY RECORDS ====================
📈 Retrieval Results:
----------------------------------------
Records retrieved: 100
Records still in Redis: 100

🔍 Verifying records still exist in Redis:
  record:001: ✅ Exists
  record:002: ✅ Exists
  record:003: ✅ Exists

📊 Retrieved Data Statistics:
  Unique users: 10
  Unique categories: 5
  Most common user: user_2 (10 records)
  Most common category: category_2 (20 records)

==================== STEP 5: DELETE RECORDS ====================
🗑️ Deleting 100 records from Redis...
✅ Successfully deleted 100 records

==================== STEP 6: VERIFY DELETION ====================
🔍 Verifying deletion:
------------------------------
Records deleted: 100
Records remaining in Redis: 0
✅ All checked keys have been successfully deleted

📊 Final Redis State:
  Total keys in Redis: 0
  Database empty: Yes

==================== FINAL SUMMARY ====================
📊 Test Results:
  Records written: 100
  Records retrieved: 100
  Records deleted: 100
  Final Redis size: 0
  Test completed: ✅ Success

🎉 All Redis tests passed!
🔌 Redis connection closed
"""


def call(url):
    without = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    return subprocess.run(
        [sys.executable, ROOT / "test_redis_server.py", "--redis-url", url],
        env=without, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def without_figures(text):
    """The text with * for what varies from server to server."""
    lines = []
    for line in text.splitlines():
        head, colon, _ = line.partition(": ")
        varies = head in [known.partition(": ")[0] for known in KNOWN.splitlines() if "*" in known]
        lines.append(head + colon + "*" if varies else line)
    return "\n".join(lines) + "\n"


def test_the_output_is_the_known_one(url):
    run = call(url)

    assert run.returncode == 0, run.stdout + run.stderr
    assert without_figures(run.stdout).startswith(KNOWN)
    assert run.stdout.endswith(KNOWN_END)


def test_other_keys_are_counted_and_left_alone(url, text_client):
    text_client.mset({"a": "1", "b": "2", "c": "3"})
    run = call(url)

    assert "  Total keys in Redis: 3\n  Database empty: No\n" in run.stdout
    assert sorted(text_client.keys()) == ["a", "b", "c"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_interruption_leaves_no_keys(text_client, interruption):
    with pytest.raises(interruption), checks.own_keys(text_client) as prefix:
        text_client.set(f"{prefix}key", "value")
        raise interruption

    assert text_client.dbsize() == 0


def test_a_server_that_is_not_ours_may_differ(text_client, capsys):
    was = text_client.config_get("appendfsync")["appendfsync"]
    text_client.config_set("appendfsync", "no")
    try:
        checks.check_configuration(text_client, is_ours=False)
        with pytest.raises(checks.Failed, match="appendfsync"):
            checks.check_configuration(text_client, is_ours=True)
    finally:
        text_client.config_set("appendfsync", was)

    assert "⚠️  appendfsync = no (redis.conf: everysec)" in capsys.readouterr().out


def test_a_check_that_fails_is_named_with_what_was_expected(any_server):
    with redis.Redis.from_url(any_server.url) as client:
        client.config_set("min-replicas-to-write", 1)
    run = call(any_server.url)

    assert run.returncode == 1
    assert run.stderr.startswith("❌ basic operations: expected") and "NOREPLICAS" in run.stderr
    assert run.stderr.count("\n") == 1


def test_no_server_is_a_line_that_says_what_to_do():
    run = call("redis://127.0.0.1:1/0")

    assert run.returncode == 1 and run.stderr.startswith("❌ connection:")
    assert "./start_local.sh" in run.stderr and run.stderr.count("\n") == 1


def test_the_connection_is_patient(url):
    kwargs = checks.connect(url).connection_pool.connection_kwargs

    assert kwargs["socket_timeout"] == kwargs["socket_connect_timeout"] == 10
    assert kwargs["health_check_interval"] == 30
    assert kwargs["retry"].get_retries() == 1
