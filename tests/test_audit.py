"""The audit counts rows, and nothing else."""

import polars as pl
import pytest

from redis_kit.audit import audit
from redis_kit.events import COLLECTIONS, LIKE, POST, Firehose, read_event
from redis_kit.ids import BEFORE_FIRST
from redis_kit.sink import ParquetSink, by_day, first_number

NOTHING = dict.fromkeys(COLLECTIONS, 0)
BEGINS = dict.fromkeys(COLLECTIONS, 1)
# An event every 250 s: 400 posts last more than a day.
SLOW = Firehose(60_000_000, 0.004, "equal", 400)


@pytest.fixture
def stored(tmp_path):
    """The whole set in files of 100, as writers store it."""
    sink = ParquetSink(tmp_path)
    sink.begin_set(SLOW.name)
    batches = {collection: [] for collection in COLLECTIONS}
    last = dict.fromkeys(COLLECTIONS, BEFORE_FIRST)
    for index, collection, number, raw in SLOW.events(NOTHING):
        last[collection] = last[collection].following(SLOW.time_us(index))
        batches[collection].append((last[collection], raw, read_event(raw)[2]))
        if number % 100 == 0:
            for part in by_day(batches[collection]):
                sink.write(collection, part)
            batches[collection] = []
    return tmp_path


def files(folder, collection):
    return sorted(folder.glob(f"*/{collection}/*.parquet"), key=first_number)


def total(counts, figure):
    return sum(getattr(count, figure) for count in counts.values())


def test_a_whole_set_is_stored_once(stored):
    counts = audit(stored, SLOW, BEGINS)

    assert total(counts, "expected") == total(counts, "stored") == 2000
    assert total(counts, "lost") == total(counts, "duplicated") == 0
    assert counts[POST].files == len(files(stored, POST))
    assert counts[POST].bytes == sum(path.stat().st_size for path in files(stored, POST))


def test_a_missing_first_file_is_lost(stored):
    files(stored, POST)[0].unlink()

    assert audit(stored, SLOW, BEGINS)[POST].lost > 0


def test_days_that_were_moved_away_count_as_stored(stored):
    oldest_day = files(stored, POST)[0].parent
    moved = sum(1 for path in oldest_day.iterdir() if path.unlink() is None)
    assert 0 < moved < len(files(stored, POST)) + moved, "a later day is left"

    counts = audit(stored, SLOW, BEGINS)

    assert (counts[POST].stored, counts[POST].lost) == (400, 0)
    assert counts[POST].files == len(files(stored, POST))


def test_the_last_day_is_lost(stored):
    days = sorted({path.parent for path in files(stored, POST)})
    assert len(days) >= 2
    for path in days[-1].iterdir():
        path.unlink()

    assert audit(stored, SLOW, BEGINS)[POST].lost > 0


def test_files_in_a_wrong_folder_are_repeated_rows(stored):
    first, last = files(stored, POST)[0], files(stored, POST)[-1]
    (last.parent / first.name).write_bytes(first.read_bytes())

    assert audit(stored, SLOW, BEGINS)[POST].duplicated == 100


def test_rows_behind_the_end_of_the_set_are_too_many(stored):
    fewer = Firehose(60_000_000, 0.004, "equal", 400)
    fewer.events_per_collection = 350

    assert audit(stored, fewer, BEGINS)[POST].duplicated == 50


def test_of_an_interrupted_run_only_what_was_published_can_be_lost(stored):
    for path in files(stored, LIKE)[1:]:
        path.unlink()

    counts = audit(stored, SLOW, BEGINS, published_index=400 + 350)

    assert counts[LIKE].lost == 350 - counts[LIKE].stored > 0
    assert total(counts, "expected") == 2000 and counts[POST].lost == 0


def test_a_set_may_begin_behind_others(stored):
    later = dict.fromkeys(COLLECTIONS, 401)
    counts = audit(stored, SLOW, later)

    assert total(counts, "stored") == 0 and total(counts, "duplicated") == 0


def test_a_hole_is_lost_however_early_the_run_was_interrupted(stored):
    files(stored, LIKE)[1].unlink()

    assert audit(stored, SLOW, BEGINS, published_index=0)[LIKE].lost > 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frame: frame.drop("event"),
        lambda frame: frame.with_columns(event=pl.lit(None, pl.String)),
        lambda frame: frame.with_columns(event=pl.lit(5)),
        lambda frame: frame.with_columns(number=pl.lit(None, pl.Int64)),
        lambda frame: frame.with_columns(stream_id=pl.lit("x")),
        lambda frame: frame.with_columns(stream_id=pl.format("5-{}", "number")),
    ],
)
def test_rows_that_are_no_events_of_ours_are_lost(stored, spoil):
    path = files(stored, POST)[1]
    frame = pl.read_parquet(path)
    spoil(frame).write_parquet(path)

    counts = audit(stored, SLOW, BEGINS)

    assert (counts[POST].lost, counts[POST].duplicated) == (len(frame), 0)
