"""What jetstream_load_test.py promises to whoever calls it: flags, status, summary, output."""

import json
import os
import re
import subprocess
import sys

import polars as pl
import pytest
import redis

from redis_kit.events import COLLECTIONS, Firehose
from redis_kit.streams import stream_key
from tests.kit import ROOT, SEED, SMALL, Kit


def call(*flags, **environment):
    without = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    return subprocess.run(
        [sys.executable, ROOT / "jetstream_load_test.py", *flags],
        cwd=ROOT, env=without | environment, text=True, capture_output=True, timeout=30,
    )  # fmt: skip


# 1. A run ----------------------------------------------------------------------------


def test_the_whole_set_is_stored_and_the_summary_says_so(kit):
    run = kit.run(*SMALL)

    assert run.status == 0, run
    kit.assert_exactly_once(*SMALL)
    summary = run.summary
    assert summary["expected"] == summary["stored"] == 1500
    assert summary["published"] == summary["ingested"] == summary["written"] == 1500
    assert (summary["lost"], summary["duplicated"]) == (0, 0)
    assert (summary["errors"], summary["dead_letters"], summary["passes"]) == (0, 0, 1)
    assert summary["files"] == len(kit.files()) == 15
    assert summary["bytes"] == sum(path.stat().st_size for path in kit.files())
    assert summary["seed"] == int(SEED)
    assert set(summary["rates"]) == {"publish", "ingest", "write"}
    latency = summary["latency_ms"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["p99_9"] <= latency["max"]
    posts = summary["collections"]["app.bsky.feed.post"]
    assert (posts["written"], posts["stored"], posts["files"]) == (300, 300, 3)
    assert posts["first"].endswith("-1") and posts["last"].endswith("-300")
    assert summary["server"]["name"] in ("Redis", "Valkey")
    assert summary["settings"]["batch_size"] == 100


def test_the_same_flags_again_add_nothing(kit):
    kit.run(*SMALL)
    before = {path: path.stat().st_mtime_ns for path in kit.files()}

    again = kit.run(*SMALL)

    assert again.status == 0, again
    assert again.summary["published"] == again.summary["written"] == again.summary["files"] == 0
    assert again.summary["stored"] == 1500
    assert {path: path.stat().st_mtime_ns for path in kit.files()} == before


def test_burst_size_and_batch_size_change_no_event(kit):
    run = kit.run(*SMALL, "--burst-size", "7", "--batch-size", "33")

    assert run.status == 0, run
    kit.assert_exactly_once(*SMALL)


def test_the_firehose_mix_is_stored_as_it_is_drawn(kit):
    flags = (*SMALL, "--mix", "firehose")
    run = kit.run(*flags)

    assert run.status == 0, run
    assert run.summary["expected"] == 1500
    kit.assert_exactly_once(*flags)


def test_numbers_go_on_through_the_runs_of_a_directory(kit):
    small = ("--rate", "0", "--events-per-collection", "150")
    first, second = kit.run(*small), kit.run(*small)

    assert first.status == second.status == 0
    assert second.summary["seed"] > first.summary["seed"]
    numbers = [number for collection, number, _ in kit.rows() if collection.endswith("like")]
    assert numbers == list(range(1, 301))


def test_an_older_set_is_refused_in_one_line_that_names_the_way_out(kit):
    kit.run("--rate", "0", "--events-per-collection", "100", "--seed", "60000001")
    older = kit.run(*SMALL)

    assert older.status == 2 and older.summary is None, older
    assert older.err.count("\n") == 1 and "--data-dir" in older.err
    assert len(kit.rows()) == 500


def test_nothing_but_the_kits_own_keys_is_touched(kit, client):
    client.set("somebody:else", "1")
    kit.run(*SMALL)

    assert client.get("somebody:else") == b"1"
    names = {key.decode() for key in client.scan_iter()}
    assert all(name.startswith("jetstream:") for name in names - {"somebody:else"})
    assert "jetstream:busy" not in names
    assert client.xlen(stream_key("app.bsky.feed.post")) == 300


def test_the_two_numbers_in_main_can_be_edited(kit, tmp_path):
    source = (ROOT / "jetstream_load_test.py").read_text()
    edited = source.replace("settings.events_per_collection,", "120,").replace(
        "burst_size=settings.burst_size,", "burst_size=9,"
    )
    assert edited.count("120,") == 1 and edited.count("burst_size=9,") == 1
    script = tmp_path / "edited.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{edited}")

    run = Kit(kit.url, kit.data_dir, script).run("--rate", "0")

    assert run.status == 0, run
    assert run.summary["expected"] == run.summary["stored"] == len(kit.rows()) == 600


def test_latency_counts_from_when_an_event_was_due(kit):
    """A stall of the writers shows, although nothing was published late."""
    flags = ("--rate", "500", "--events-per-collection", "100", "--seed", SEED)
    quick = kit.run(*flags, "--data-dir", str(kit.data_dir) + "2").summary
    slow = kit.run(*flags, slow="before_rename:1").summary

    assert quick is None  # written to the other directory
    assert slow["latency_ms"]["p50"] > 1000


# 2. The audit ------------------------------------------------------------------------


def test_a_missing_file_is_lost_events(kit):
    kit.run(*SMALL)
    kit.files()[1].unlink()

    audited = kit.run(*SMALL)

    assert audited.status == 3, audited
    assert (audited.summary["lost"], audited.summary["duplicated"]) == (100, 0)


@pytest.mark.parametrize("where", ["in the file", "as a copy"])
def test_a_row_that_is_there_twice_is_found(kit, where):
    kit.run(*SMALL)
    path = kit.files()[1]
    if where == "in the file":
        frame = pl.read_parquet(path)
        pl.concat([frame, frame.head(1)]).write_parquet(path)
    else:
        (path.with_name("copy.parquet")).write_bytes(path.read_bytes())

    audited = kit.run(*SMALL)

    assert audited.status == 3, audited
    assert audited.summary["lost"] == 0
    assert audited.summary["duplicated"] == (1 if where == "in the file" else 100)


def test_a_row_that_is_not_the_event_of_the_set_is_lost(kit):
    kit.run(*SMALL)
    path = kit.files()[1]
    frame = pl.read_parquet(path)
    frame.with_columns(event=pl.lit("{}")).write_parquet(path)

    audited = kit.run(*SMALL)

    assert audited.status == 3 and audited.summary["lost"] == 100, audited


def test_an_unreadable_file_is_lost_events(kit):
    kit.run(*SMALL)
    kit.files()[1].write_bytes(b"PAR1 no more")

    audited = kit.run(*SMALL)

    assert audited.status == 3 and audited.summary["lost"] == 100, audited


# 3. Flags and refusals ---------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, word",
    [
        (["--rate", "nan"], "nan"),
        (["--rate", "-1"], "-1"),
        (["--burst-size", "0"], "at least 1"),
        (["--events-per-collection", "1.5"], "whole number"),
        (["--batch-size", "-5"], "-5"),
        (["--batch-size", "100", "--stream-maxlen", "199"], "twice"),
        (["--flush-seconds", "inf"], "inf"),
        (["--mix", "other"], "other"),
        (["--events", "5"], "--events"),
        (["--seed", "99999999999"], "at most"),
        (["stray"], "stray"),
        (["--redis-url", "nonsense"], "no Redis at nonsense"),
        (["--redis-url", "redis://127.0.0.1:1/0"], "./start_local.sh"),
        (["--redis-url", "redis://127.0.0.1:1/0?foo=1"], "not a URL"),
        (["--redis-url", "redis://:s3c/ret@127.0.0.1:1/0"], "redis://:***@127.0.0.1:1/0"),
        (["--batch-size", "1" + "0" * 400], "whole number"),
        (["--rate", "1e-310"], "40 years"),
        (["--redis-url", "redis://127.0.0.1:1/0", "--summary-json", "/"], "name a file"),
    ],
)
def test_nonsense_is_refused_in_one_line(flags, word):
    refused = call(*flags)

    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1 and word in refused.stderr, refused.stderr
    assert "Traceback" not in refused.stderr and not refused.stdout


@pytest.mark.parametrize("variable", ["KIT_CRASH", "KIT_SLOW"])
@pytest.mark.parametrize("value", ["nowhere:1", "after_read", "after_read:x", "after_read:-1"])
def test_a_seam_that_does_not_exist_is_refused(any_server, tmp_path, variable, value):
    refused = call(
        "--redis-url", any_server.url, "--data-dir", tmp_path / "data", **{variable: value}
    )

    assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
    assert variable in refused.stderr


def test_a_password_is_shown_nowhere(any_server, tmp_path):
    with redis.Redis.from_url(any_server.url) as client:
        client.config_set("requirepass", "s3cret")
    url = any_server.url.replace("redis://", "redis://:s3cret@")
    wrong = call("--redis-url", url.replace("s3cret", "wr0ng"), "--data-dir", tmp_path / "data")
    kit = Kit(url, tmp_path / "data")
    right = kit.run(*SMALL)

    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
    assert "wr0ng" not in wrong.stderr + wrong.stdout
    assert right.status == 0
    assert "s3cret" not in right.out + right.err + json.dumps(right.summary)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_directory_that_cannot_be_made_is_refused(any_server, tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    refused = call("--redis-url", any_server.url, "--data-dir", tmp_path / place)

    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "--data-dir" in refused.stderr


def test_a_file_that_is_not_ours_is_named(kit):
    kit.run(*SMALL)
    kit.files()[2].write_bytes(b"nonsense")
    refused = kit.run(*SMALL)

    assert refused.status == 2 and kit.files()[2].name in refused.err, refused


def test_help_explains_every_flag_in_groups():
    asked = call("--help")

    assert asked.returncode == 0
    groups = [line for line in asked.stdout.splitlines() if re.fullmatch(r"\w+:", line)]
    assert groups == ["options:", "source:", "pipeline:", "output:"]
    for default in ("1000", "50.0", "100", "30.0", "100000", "60.0"):
        assert f"(default: {default})" in " ".join(asked.stdout.split())


def test_print_events_needs_no_server():
    asked = call("--print-events", "--seed", "1", "--events-per-collection", "2")

    events = [json.loads(line) for line in asked.stdout.splitlines()]
    assert asked.returncode == 0 and len(events) == 10
    assert asked.stdout.encode() == b"".join(
        raw + b"\n" for *_, raw in Firehose(1, 50, "equal", 2).events(dict.fromkeys(COLLECTIONS, 0))
    )
    assert events[0]["time_us"] == 1_735_689_601_000_000


def test_without_a_server_both_ways_to_get_one_are_named(tmp_path):
    copy = tmp_path / "kit"
    subprocess.run(["cp", "-r", ROOT / "redis_kit", ROOT / "jetstream_load_test.py", copy.parent])
    asked = subprocess.run(
        [sys.executable, tmp_path / "jetstream_load_test.py"], text=True, capture_output=True,
        env={name: value for name, value in os.environ.items() if name != "REDIS_URL"},
    )  # fmt: skip

    assert asked.returncode == 2
    assert "./start_local.sh" in asked.stderr and "--redis-url" in asked.stderr
