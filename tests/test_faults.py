"""The server forgets, dies or is shared; strangers and second runs turn up.

Each fault strikes while work is in flight, which the test asserts, and in the same run
nothing is lost and nothing comes twice.
"""

import os
import re
import signal
import subprocess
import time

import pytest
import redis

from redis_kit.owner import BUSY_KEY, OWNER_KEY
from redis_kit.streams import GROUP, stream_key, unsettled
from tests.kit import SMALL, Kit

pytestmark = pytest.mark.fault
POST = stream_key("app.bsky.feed.post")
PACED = ("--rate", "400", "--events-per-collection", "200", "--seed", "60000000")


def assert_survived(kit, run, flags=PACED, passes=2):
    """Lost 0 and duplicated 0 in the same run, which did need another pass."""
    assert run.status == 0, run
    assert (run.summary["lost"], run.summary["duplicated"]) == (0, 0)
    assert run.summary["passes"] >= passes, run
    assert run.summary["errors"] >= run.summary["passes"] - 1
    kit.assert_exactly_once(*flags)


# 1. The server -----------------------------------------------------------------------


def test_a_server_that_is_killed_and_restarted_with_its_aof(own_server, tmp_path):
    kit = Kit(own_server.url, tmp_path / "data")
    process = kit.start(*PACED)
    kit.wait_for_files(2)
    own_server.kill()
    time.sleep(1)
    own_server.start()

    assert_survived(kit, kit.finish(process))


def test_a_server_that_comes_back_empty(own_server, tmp_path):
    kit = Kit(own_server.url, tmp_path / "data")
    process = kit.start(*PACED)
    kit.wait_for_files(2)
    own_server.kill()
    for path in own_server.folder.glob("*append*"):
        path.rename(path.with_name("away"))
    own_server.start()

    assert_survived(kit, kit.finish(process))


def test_a_server_that_is_paused_longer_than_the_time_out(any_server, tmp_path):
    kit = Kit(any_server.url, tmp_path / "data")
    process = kit.start(*PACED)
    kit.wait_for_files(2)
    any_server.pause()
    time.sleep(7)
    any_server.resume()

    assert_survived(kit, kit.finish(process))


def test_a_server_that_never_comes_back_ends_the_run_with_3(any_server, tmp_path):
    kit = Kit(any_server.url, tmp_path / "data")
    process = kit.start(*PACED, "--give-up-seconds", "2")
    kit.wait_for_files(1)
    any_server.kill()
    run = kit.finish(process, seconds=20)
    any_server.start()

    assert run.status == 3, run
    assert run.summary["lost"] == run.summary["expected"] - len(kit.rows()) > 0


# 2. What others do to the streams ----------------------------------------------------


def flush(client):
    client.flushall()


def delete_stream(client):
    client.delete(POST)


def destroy_group(client):
    client.xgroup_destroy(POST, GROUP)


def skip_to_the_end(client):
    client.xgroup_setid(POST, GROUP, id="$")


def trim_unread(client):
    client.xtrim(POST, maxlen=0, approximate=False)


def delete_unread(client):
    for entry_id, _ in client.xrevrange(POST, count=20):
        client.xdel(POST, entry_id)


def claim_away(client):
    entries = client.xpending_range(POST, GROUP, "-", "+", 50)
    client.xclaim(POST, GROUP, "thief", 0, [entry["message_id"] for entry in entries])


def another_type(client):
    client.set(POST, "no stream")


def stranger(client):
    client.xadd(POST, {"hello": "world"})


def stranger_from_the_future(client):
    client.xadd(POST, {"hello": "world"}, id="9999999999999-1")


@pytest.mark.parametrize(
    "strike",
    [flush, delete_stream, destroy_group, skip_to_the_end, trim_unread, delete_unread,
     another_type, stranger_from_the_future],
)  # fmt: skip
def test_what_is_done_to_a_stream_in_flight(kit, client, strike):
    """Slow writers, so that entries are unread and pending when it strikes."""
    flags = ("--rate", "1000", "--events-per-collection", "500", "--seed", "60000000")
    process = kit.start(*flags, slow="before_rename:0.3")
    kit.wait_for_files(1)
    assert unsettled(client, "app.bsky.feed.post")
    strike(client)

    assert_survived(kit, kit.finish(process), flags)


def test_pending_entries_that_another_consumer_claimed_before_a_crash(kit, client):
    """Nobody will give them to us again: the numbers show it, and the source repeats them."""
    kit.run(*SMALL, crash="after_read:2")
    claim_away(client)
    assert client.xpending(POST, GROUP)["consumers"][0]["name"] == b"thief"

    assert_survived(kit, kit.run(*SMALL), SMALL, passes=1)


def test_a_strangers_entry_is_never_a_row_and_is_kept(kit, client):
    process = kit.start(*PACED, slow="after_read:0.1")
    kit.wait_for_files(1)
    stranger(client)
    run = kit.finish(process)

    assert_survived(kit, run, passes=1)
    assert run.summary["dead_letters"] == 1
    [kept] = (kit.data_dir / "dead_letter").glob("*.event")
    assert "hello" in kept.read_text()
    assert "did not append" in kept.with_suffix(".reason").read_text()


def test_maxlen_300_with_slow_writers_trims_nothing_unread(kit, client):
    flags = ("--rate", "0", "--events-per-collection", "1000", "--seed", "60000000")
    run = kit.run(*flags, "--stream-maxlen", "300", slow="before_rename:0.05")

    assert_survived(kit, run, flags, passes=1)
    assert run.summary["passes"] == 1, "backpressure is no failure"
    assert client.xlen(POST) < 600, "there was nothing to trim"


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru"])
def test_a_small_maxmemory_makes_ingestion_wait(any_server, tmp_path, policy):
    kit = Kit(any_server.url, tmp_path / "data")
    flags = ("--rate", "0", "--events-per-collection", "3000", "--seed", "60000000")
    with redis.Redis.from_url(any_server.url) as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 4_000_000)
        client.config_set("maxmemory-policy", policy)
        run = kit.run(*flags, slow="before_rename:0.02")
        evicted = client.info("stats")["evicted_keys"]

    assert_survived(kit, run, flags, passes=1)
    assert run.summary["passes"] == 1 and evicted == 0, run


@pytest.mark.parametrize("room", [20_000, 200_000])
def test_a_memory_full_of_what_is_stored_is_made_room_in(any_server, tmp_path, room):
    """noeviction, and the server refuses even the keys that say who owns the streams."""
    kit = Kit(any_server.url, tmp_path / "data")
    kit.run("--rate", "0", "--events-per-collection", "2000", "--seed", "50000000")
    with redis.Redis.from_url(any_server.url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", client.info("memory")["used_memory"] + room)
    before = len(kit.rows())

    run = kit.run(*SMALL)

    assert run.status == 0, run
    assert run.summary["written"] == len(kit.rows()) - before == 1500


# 3. The disk -------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 KB in memory, where the machine lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_waited_out_and_does_not_count_as_giving_up(any_server, small_disk):
    kit = Kit(any_server.url, small_disk / "data")
    process = kit.start(*SMALL, "--give-up-seconds", "2")
    time.sleep(6)
    assert process.poll() is None, "it keeps trying"
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)

    run = kit.finish(process)

    assert_survived(kit, run, SMALL)
    assert "No space left" in run.out


# 4. After a stop ---------------------------------------------------------------------


def test_what_was_published_before_a_stop_is_given_again_and_only_that(kit, client):
    """Ctrl+C, and then the server forgets: the passes after it settle what was published."""
    flags = ("--rate", "1000", "--events-per-collection", "500", "--seed", "60000000")
    process = kit.start(*flags, slow="before_rename:0.3")
    kit.wait_for_files(1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    client.flushall()
    run = kit.finish(process)

    assert run.status == 130, run
    summary = run.summary
    assert summary["passes"] >= 2 and summary["published"] < summary["expected"]
    assert summary["published"] == summary["ingested"] == summary["written"] == len(kit.rows())
    assert summary["lost"] == 0
    assert kit.run(*flags).status == 0
    kit.assert_exactly_once(*flags)


def test_a_run_stays_the_owner_as_long_as_it_lasts(any_server, tmp_path):
    kit = Kit(any_server.url, tmp_path / "data")
    process = kit.start("--rate", "50")
    time.sleep(5)
    with redis.Redis.from_url(any_server.url) as client:
        seconds_left = client.ttl(BUSY_KEY)
    process.send_signal(signal.SIGINT)

    assert kit.finish(process).status == 130
    assert seconds_left > 10 - 4.5, "it was renewed after the first seconds"


# 5. Two of them ----------------------------------------------------------------------


def test_a_second_run_on_one_directory_is_refused(kit):
    process = kit.start(*PACED)
    kit.wait_for_files(1)
    second = Kit(kit.url, kit.data_dir).run_beside(*PACED)

    assert second.returncode == 2 and second.stderr.count("\n") == 1, second
    assert "another run is writing" in second.stderr
    assert kit.finish(process).status == 0
    kit.assert_exactly_once(*PACED)


def test_a_second_directory_is_refused_while_the_first_is_busy(kit, tmp_path):
    process = kit.start(*PACED)
    kit.wait_for_files(1)
    second = Kit(kit.url, tmp_path / "second").run(*SMALL)

    assert second.status == 2 and second.summary is None, second
    assert "is using these streams" in second.err and second.err.count("\n") == 1
    assert kit.finish(process).status == 0
    kit.assert_exactly_once(*PACED)


def test_a_second_directory_is_refused_while_the_first_has_unsettled_entries(kit, client, tmp_path):
    kit.run(*SMALL, crash="after_append:5")
    client.delete(BUSY_KEY)  # as if ten seconds had passed
    second = Kit(kit.url, tmp_path / "second")

    refused = second.run(*SMALL)

    assert refused.status == 2 and "not on its disk yet" in refused.err, refused
    assert kit.run(*SMALL).status == 0
    assert second.run(*SMALL).status == 0
    kit.assert_exactly_once(*SMALL)
    second.assert_exactly_once(*SMALL)


def test_the_advice_of_that_refusal_works(kit, client, tmp_path):
    kit.run(*SMALL, crash="after_append:5")
    client.delete(BUSY_KEY)
    second = Kit(kit.url, tmp_path / "second")
    key = re.search(r"DEL (\S+)", second.run(*SMALL).err)[1]
    assert key == OWNER_KEY

    client.delete(key)

    assert second.run(*SMALL).status == 0
    second.assert_exactly_once(*SMALL)


def test_streams_that_another_directory_took_meanwhile_are_not_mixed(kit, client, tmp_path):
    """The first run sleeps until its busy key expires; another directory takes the streams."""
    process = kit.start(*PACED)
    kit.wait_for_files(1)
    process.send_signal(signal.SIGSTOP)
    client.delete(BUSY_KEY, OWNER_KEY)
    second = Kit(kit.url, tmp_path / "second")
    taken = second.run(*SMALL)
    process.send_signal(signal.SIGCONT)

    assert taken.status == 0, taken
    assert_survived(kit, kit.finish(process), passes=1)
    second.assert_exactly_once(*SMALL)
