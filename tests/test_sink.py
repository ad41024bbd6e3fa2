"""A file exists once or not at all, and the directory knows how far it is."""

import hashlib
import json
import os
from pathlib import Path

import polars as pl
import pytest

from redis_kit.events import COLLECTIONS, POST
from redis_kit.ids import BEFORE_FIRST, StreamId
from redis_kit.sink import ParquetSink, UnreadableFile, by_day, newest_file

DAY_MS = 86_400_000
NOON = 1_754_571_487_123


@pytest.fixture
def sink(tmp_path):
    return opened(tmp_path)


def opened(folder):
    sink = ParquetSink(folder)
    sink.load()
    sink.begin_set("a set")
    return sink


def entry(number, millisecond=NOON, record=None, **changes):
    commit = {"operation": "create", "collection": POST, "rkey": "k", "rev": "r", "cid": "c"}
    commit["record"] = {"text": "hello", "langs": ["en"]} if record is None else record
    event = {"did": "d", "time_us": millisecond * 1000, "commit": commit} | changes
    return StreamId(millisecond, number), json.dumps(event).encode(), event


def stored(folder):
    return pl.read_parquet(sorted(folder.glob("*/*/*.parquet")), missing_columns="raise")


def test_a_files_name_is_the_time_and_the_number_it_begins_with(sink, tmp_path):
    sink.write(POST, [entry(301), entry(302)])

    path = tmp_path / "2025_08_07" / POST / "data_20250807_125807_301.parquet"
    assert newest_file(tmp_path, POST) == path
    assert pl.read_parquet(path)["stream_id"].to_list() == [f"{NOON}-301", f"{NOON}-302"]
    said = pl.read_parquet_metadata(path)
    assert said["first_id"] == f"{NOON}-301" and said["last_id"] == f"{NOON}-302"
    assert said["source"] == "a set" and said["set_begins"] == "1"


def test_a_name_that_is_taken_is_refused_and_the_file_stays(sink, tmp_path):
    other = opened(tmp_path)
    other.write(POST, [entry(1)])

    with pytest.raises(FileExistsError):
        sink.write(POST, [entry(1, record={"text": "another"})])

    assert stored(tmp_path)["text"].to_list() == ["hello"]
    assert not list(tmp_path.glob(".*.tmp"))


def test_without_links_a_taken_name_is_refused_too(sink, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)
    sink.write(POST, [entry(1)])

    with pytest.raises(FileExistsError):
        opened_at_the_beginning(tmp_path).write(POST, [entry(1)])
    assert len(stored(tmp_path)) == 1


def test_a_batch_over_midnight_is_two_files(sink, tmp_path):
    last_ms = NOON // DAY_MS * DAY_MS + DAY_MS - 1
    batch = [entry(1, last_ms), entry(2, last_ms + 1), entry(3, last_ms + 2)]
    sizes = [sink.write(POST, part) for part in by_day(batch)]

    paths = sorted(path.relative_to(tmp_path) for path in tmp_path.glob("*/*/*.parquet"))
    assert [str(path) for path in paths] == [
        f"2025_08_07/{POST}/data_20250807_235959_1.parquet",
        f"2025_08_08/{POST}/data_20250808_000000_2.parquet",
    ]
    assert sizes == [(tmp_path / path).stat().st_size for path in paths]


def test_what_a_new_run_reads_is_where_the_old_one_stopped(sink, tmp_path):
    sink.write(POST, [entry(1), entry(2)])
    sink.write(POST, [entry(3, NOON + 3 * DAY_MS)])

    again = opened(tmp_path)

    assert again.last_id(POST) == StreamId(NOON + 3 * DAY_MS, 3)
    assert again.newest_set() == ("a set", StreamId(NOON + 3 * DAY_MS, 3))
    assert again.set_begins(POST) == 1
    assert again.last_id(COLLECTIONS[1]) == BEFORE_FIRST and again.set_begins(COLLECTIONS[1]) == 1


def test_another_set_begins_behind_what_is_stored(sink, tmp_path):
    sink.write(POST, [entry(1), entry(2)])
    sink.begin_set("another set")
    sink.write(POST, [entry(3)])

    assert opened(tmp_path).newest[POST].set_begins == 3


def test_what_was_found_is_made_durable_before_it_is_believed(sink, tmp_path, monkeypatch):
    sink.write(POST, [entry(1)])
    path = newest_file(tmp_path, POST)
    synced = record_synced_paths(monkeypatch)

    opened(tmp_path)

    assert {path, path.parent, path.parent.parent, tmp_path} <= set(synced)


def test_contents_name_and_new_folders_are_durable_when_write_returns(sink, tmp_path, monkeypatch):
    synced, linked = record_synced_paths(monkeypatch), []
    link = os.link
    monkeypatch.setattr(os, "link", lambda *paths: (linked.append(len(synced)), link(*paths)))

    sink.write(POST, [entry(1)])

    folder = tmp_path / "2025_08_07" / POST
    assert synced == [tmp_path, folder.parent, tmp_path / f".{POST}.tmp", folder]
    assert linked == [3], "the contents are durable before the name exists, the name after it"


def test_a_failed_write_leaves_nothing_behind(sink, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", disk_full)

    with pytest.raises(OSError, match="No space"):
        sink.write(POST, [entry(1)])

    assert not list(tmp_path.rglob("*.parquet")) and not list(tmp_path.glob(".*.tmp"))
    assert sink.last_id(POST) == BEFORE_FIRST


@pytest.mark.parametrize(
    "odd",
    [
        {"text": {"not": "a text"}},
        {"text": 5, "langs": "en"},
        {"text": "\ud800", "langs": ["\ud800"]},
        {"langs": ["en", 7]},
        {"reply": "x", "embed": ["y"]},
        "no object",
        ["no", "object"],
    ],
)
def test_an_odd_event_is_a_row_with_nulls_and_its_neighbours_are_untouched(sink, tmp_path, odd):
    sink.write(POST, [entry(1), entry(2, record=odd), entry(3)])

    rows = stored(tmp_path)
    assert rows["number"].to_list() == [1, 2, 3]
    assert rows["text"].to_list()[::2] == ["hello", "hello"]
    assert rows["text"][1] is None and rows["langs"][1] is None
    assert rows["did"].to_list() == ["d", "d", "d"]
    assert rows["event"][1] == entry(2, record=odd)[1].decode()


def test_every_file_of_a_collection_has_one_schema(sink, tmp_path):
    sink.write(POST, [entry(1, record={})])
    sink.write(POST, [entry(2)])

    first, second = (
        pl.read_parquet_schema(path) for path in sorted(tmp_path.glob("*/*/*.parquet"))
    )
    assert first == second
    assert list(first)[:2] == ["stream_id", "number"] and list(first)[-1] == "event"


def test_numbers_too_large_for_a_column_are_null(sink, tmp_path):
    sink.write(POST, [entry(1, time_us=2**70)])

    assert stored(tmp_path)["time_us"].to_list() == [None]


@pytest.mark.parametrize("spoil", ["nonsense", "rename"])
def test_a_newest_file_that_is_not_ours_is_named(sink, tmp_path, spoil):
    sink.write(POST, [entry(1)])
    path = newest_file(tmp_path, POST)
    if spoil == "nonsense":
        path.write_text("no Parquet")
    else:
        path.rename(path.with_name("data_20250807_125807_2.parquet"))

    with pytest.raises(UnreadableFile, match="data_20250807"):
        opened(tmp_path)


def test_a_dead_letter_is_kept_byte_for_byte_under_its_hash(sink, tmp_path):
    assert sink.dead_letter(b"\xff\x00", "not UTF-8")
    assert not sink.dead_letter(b"\xff\x00", "not UTF-8")

    [path] = (tmp_path / "dead_letter").glob("*.event")
    assert path.read_bytes() == b"\xff\x00"
    assert path.stem == hashlib.sha256(b"\xff\x00").hexdigest()
    assert path.with_suffix(".reason").read_text() == "not UTF-8\n"


def opened_at_the_beginning(folder):
    """A second writer that believes in itself: it has not seen what is there."""
    sink = ParquetSink(folder)
    sink.begin_set("a set")
    return sink


def no_links(*_):
    raise OSError(95, "Operation not supported")


def disk_full(_):
    raise OSError(28, "No space left on device")


def record_synced_paths(monkeypatch):
    """The paths behind the descriptors that are fsynced, in order."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("only Linux tells which file a descriptor is")
    synced, fsync = [], os.fsync

    def record(descriptor):
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    return synced
