"""The process dies, or is asked to end; the same command again completes the set.

Every test here asserts that the process was in the middle of its work when it was struck.
"""

import random
import signal
import time

import polars as pl
import pytest
import redis

from redis_kit.seams import SEAMS
from redis_kit.streams import GROUP, stream_key
from tests.kit import SMALL, Kit, in_order

pytestmark = pytest.mark.fault
PACED = ("--rate", "500", "--events-per-collection", "200", "--seed", "60000000")


def pending_ids(url, collection):
    with redis.Redis.from_url(url, decode_responses=True) as client:
        if not client.exists(stream_key(collection)):
            return []
        entries = client.xpending_range(stream_key(collection), GROUP, "-", "+", 10_000)
        return [entry["message_id"] for entry in entries]


def numbers(ids):
    return {int(each.split("-")[1]) for each in ids}


@pytest.mark.parametrize("seam", SEAMS)
def test_dying_at_a_seam_neither_loses_nor_repeats_events(kit, seam):
    died = kit.run(*SMALL, crash=f"{seam}:{random.randint(1, 9)}")
    assert died.status == 137 and died.summary is None, died

    again = kit.run(*SMALL)

    assert again.status == 0, again
    assert (again.summary["lost"], again.summary["duplicated"]) == (0, 0)
    kit.assert_exactly_once(*SMALL)


def test_at_after_append_the_entries_are_in_the_stream_and_no_writer_has_more(kit):
    kit.run(*SMALL, crash="after_append:1")

    with redis.Redis.from_url(kit.url) as client:
        assert client.xlen(stream_key("app.bsky.feed.post")) == 50
    assert kit.files() == []


def test_at_after_read_entries_are_pending_and_no_file_has_them(kit):
    kit.run(*PACED, crash="after_read:1")

    assert pending_ids(kit.url, "app.bsky.feed.post")
    assert kit.files() == []


def test_at_before_rename_only_the_temporary_file_exists(kit):
    kit.run(*PACED, crash="before_rename:1")

    assert kit.files() == []
    assert [path.name for path in kit.data_dir.glob(".*.tmp")] == [".app.bsky.feed.post.tmp"]
    assert len(pending_ids(kit.url, "app.bsky.feed.post")) >= 100


def test_at_after_rename_the_file_exists_and_its_entries_are_pending(kit):
    kit.run(*PACED, crash="after_rename:1")

    assert [in_order(path) for path in kit.files()] == [("app.bsky.feed.post", 1)]
    assert numbers(pending_ids(kit.url, "app.bsky.feed.post")) >= set(range(1, 101))


def test_at_after_ack_the_file_exists_and_its_entries_are_settled(kit):
    kit.run(*PACED, crash="after_ack:1")

    assert in_order(kit.files()[0]) == ("app.bsky.feed.post", 1)
    assert not numbers(pending_ids(kit.url, "app.bsky.feed.post")) & set(range(1, 101))


def test_a_file_left_under_two_names_is_not_truncated_by_the_next_run(kit):
    """At after_rename the temporary name still leads to the finished file."""
    kit.run(*PACED, crash="after_rename:1")
    temporary = kit.data_dir / ".app.bsky.feed.post.tmp"
    assert temporary.samefile(kit.files()[0])

    again = kit.run(*PACED)

    assert again.status == 0 and again.summary["passes"] == 1, again
    assert not temporary.exists()
    kit.assert_exactly_once(*PACED)


def test_kill_9_at_random_moments(kit):
    moments = random.Random()
    for _ in range(3):
        process = kit.start(*PACED)
        time.sleep(moments.uniform(0.6, 1.8))
        process.kill()
        process.communicate()

    again = kit.run(*PACED)

    assert again.status == 0, again
    kit.assert_exactly_once(*PACED)


@pytest.mark.parametrize("sign, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_drains_what_was_published_and_the_seed_completes_the_set(kit, sign, status):
    process = kit.start(*PACED)
    kit.wait_for_files(1)
    process.send_signal(sign)
    stopped = kit.finish(process, seconds=15)

    assert stopped.status == status, stopped
    summary = stopped.summary
    assert 0 < summary["published"] < summary["expected"] == 1000
    assert summary["written"] == summary["ingested"] == summary["published"] == len(kit.rows())
    assert (summary["lost"], summary["duplicated"]) == (0, 0)
    assert f"--seed {summary['seed']}" in stopped.out

    assert kit.run(*PACED).status == 0
    kit.assert_exactly_once(*PACED)


def test_a_second_signal_ends_at_once_and_nothing_is_lost(kit):
    process = kit.start(*PACED, slow="before_rename:3")
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None, "it was to be draining"
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    stopped = kit.finish(process)

    assert stopped.status == 130 and stopped.summary is None
    assert time.monotonic() - asked < 2
    assert kit.run(*PACED).status == 0
    kit.assert_exactly_once(*PACED)


def test_what_a_dead_run_of_an_earlier_set_left_is_settled_under_its_own_name(kit):
    earlier = ("--rate", "0", "--events-per-collection", "300", "--seed", "50000000")
    kit.run(*earlier, crash="after_append:9")
    before = len(kit.rows())

    later = kit.run(*SMALL)

    assert later.status == 0, later
    assert later.summary["written"] == later.summary["expected"] == 1500
    settled = len(kit.rows()) - before - 1500
    assert settled > 0 and f"{settled:,} events it had left" in later.out
    names = {pl.read_parquet_metadata(path)["source"].split(" rate")[0] for path in kit.files()}
    assert names == {"simulator seed=50000000", "simulator seed=60000000"}


def test_a_paused_process_goes_on(url, tmp_path):
    kit = Kit(url, tmp_path / "data")
    process = kit.start(*PACED)
    kit.wait_for_files(1)
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)

    assert kit.finish(process).status == 0
    kit.assert_exactly_once(*PACED)
