"""Read the files back and count: is each event of the set one row, exactly once?

The source gives its set once more, and one cursor per collection walks the files in the order
of their numbers beside it. Trusts no counter, no footer and no stream: only rows. Memory stays
that of one batch of rows per collection, and one day's list of file names.
"""

import os
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from redis_kit.events import COLLECTIONS
from redis_kit.ids import BEFORE_FIRST, StreamId
from redis_kit.sink import day_folders, first_number

ROWS_AT_ONCE = 1000


@dataclass
class Count:
    """What the audit found of one collection of the set; first and last are stream IDs."""

    expected: int = 0
    stored: int = 0
    lost: int = 0
    duplicated: int = 0
    files: int = 0
    bytes: int = 0
    first: str | None = None
    last: str | None = None


class Cursor:
    """The rows of one collection from a number on, in the order of their files."""

    def __init__(self, data_dir, collection, begins, count):
        self.data_dir, self.collection, self.begins = data_dir, collection, begins
        self.count, self.oldest_day = count, None
        self.rows = self.walk()
        self.row = next(self.rows, None)

    def advance(self):
        self.row = next(self.rows, None)

    def walk(self):
        """(number, event bytes, stream ID) of each row."""
        for path in self.files():
            self.oldest_day = self.oldest_day or path.parent.parent.name
            self.count.files += 1
            self.count.bytes += path.stat().st_size
            try:
                yield from read_rows(path)
            except (OSError, pa.ArrowException):
                continue  # unreadable: its events are missing, and will be counted as lost

    def files(self):
        for day in day_folders(self.data_dir):
            folder = day / self.collection
            if folder.is_dir():
                names = [name for name in os.listdir(folder) if name.endswith(".parquet")]
                numbered = sorted((self.number(folder / name), name) for name in names)
                yield from (folder / name for number, name in numbered if number >= self.begins)

    def number(self, path):
        """The first number of a file, also of a copy that somebody has given another name."""
        number = first_number(path)
        if number is None:
            try:
                number = next(read_rows(path), (0,))[0]
            except (OSError, pa.ArrowException, KeyError):
                number = 0
        return number


def read_rows(path):
    columns = ["number", "event", "stream_id"]
    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=columns):
            number, event, stream_id = (batch.column(name).to_pylist() for name in columns)
            yield from zip(number, (text.encode() for text in event), stream_id, strict=True)


def audit(data_dir, firehose, set_begins, published_index=None):
    """Compare the files with the set; returns {collection: Count}.

    set_begins is the number of the set's first event per collection. Of an interrupted run
    only the events with an index below published_index can be lost.
    """
    counts = {collection: Count() for collection in COLLECTIONS}
    cursors = {
        collection: Cursor(data_dir, collection, set_begins[collection], counts[collection])
        for collection in COLLECTIONS
    }
    last_ids = dict.fromkeys(COLLECTIONS, BEFORE_FIRST)
    for index, collection, number, raw in firehose.events(dict.fromkeys(COLLECTIONS, 0)):
        count, cursor = counts[collection], cursors[collection]
        last_ids[collection] = last_ids[collection].following(firehose.time_us(index))
        count.expected += 1
        verdict = find(cursor, set_begins[collection] + number - 1, raw, last_ids[collection].day)
        if verdict:
            count.stored += 1
        elif published_index is None or index < published_index:
            count.lost += 1
    for cursor in cursors.values():
        finish(cursor)
    return counts


def find(cursor, number, raw, day):
    """Whether the event is stored. Rows that come again before it count as duplicated.

    Whole days may be moved away: an event older than the oldest day that is left is stored.
    """
    while cursor.row and cursor.row[0] < number:
        skip_duplicate(cursor)
    if cursor.row is None or cursor.row[0] > number:
        return cursor.oldest_day is not None and day < cursor.oldest_day
    _, stored_event, stream_id = cursor.row
    cursor.count.first = cursor.count.first or stream_id
    cursor.count.last = stream_id
    cursor.advance()
    return stored_event == raw and StreamId.parse(stream_id).number == number


def finish(cursor):
    """What is left after the set's last event is there twice, or was never given."""
    while cursor.row:
        skip_duplicate(cursor)


def skip_duplicate(cursor):
    cursor.count.duplicated += 1
    cursor.advance()
