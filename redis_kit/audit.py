"""Read the files back and count: is each event of the set one row, exactly once?

The source gives its set once more, and one cursor per collection walks the files in the order
of their numbers beside it. Trusts no counter, no footer and no stream: only rows. Memory stays
that of one batch of rows per collection, and one day's list of file names. Compared are a
row's stream ID and its `event`, byte for byte; the other columns follow from that one.
"""

import os
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from redis_kit.events import COLLECTIONS
from redis_kit.ids import StreamId
from redis_kit.sink import day_folders, first_number

ROWS_AT_ONCE = 1000
UNREADABLE = (OSError, KeyError, pa.ArrowException)


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
            except UNREADABLE:
                continue  # its events are missing, and will be counted as lost

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
            except UNREADABLE:
                number = 0
        return number


def read_rows(path):
    """(number, event bytes, stream ID) of each row of a file that holds such things."""
    columns = ["number", "event", "stream_id"]
    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=columns):
            values = (batch.column(name).to_pylist() for name in columns)
            for number, event, stream_id in zip(*values, strict=True):
                if isinstance(number, int) and isinstance(event, str):
                    yield number, event.encode(), stream_id


def audit(data_dir, firehose, set_begins, published_index=None):
    """Compare the files with the set; returns {collection: Count}.

    set_begins is the number of the set's first event per collection. Of an interrupted run
    an event is lost if its index is below published_index, or if later ones are there.
    """
    counts = {collection: Count() for collection in COLLECTIONS}
    cursors = {
        collection: Cursor(data_dir, collection, set_begins[collection], counts[collection])
        for collection in COLLECTIONS
    }
    expected_ids = {name: StreamId(0, begins - 1) for name, begins in set_begins.items()}
    for index, collection, _, raw in firehose.events(dict.fromkeys(COLLECTIONS, 0)):
        count, cursor = counts[collection], cursors[collection]
        expected_ids[collection] = expected_ids[collection].following(firehose.time_us(index))
        count.expected += 1
        if find(cursor, expected_ids[collection], raw):
            count.stored += 1
        elif cursor.row or published_index is None or index < published_index:
            count.lost += 1
    for cursor in cursors.values():
        while cursor.row:  # there twice, or never given
            skip_duplicate(cursor)
    return counts


def find(cursor, stream_id, raw):
    """Whether the event is stored. Rows that come again before it count as duplicated.

    Whole days may be moved away: an event older than the oldest day that is left is stored.
    """
    while cursor.row and cursor.row[0] < stream_id.number:
        skip_duplicate(cursor)
    if cursor.row is None or cursor.row[0] > stream_id.number:
        return cursor.oldest_day is not None and stream_id.day < cursor.oldest_day
    is_equal = cursor.row[1:] == (raw, str(stream_id))
    cursor.count.first = cursor.count.first or str(stream_id)
    cursor.count.last = str(stream_id)
    cursor.advance()
    return is_equal


def skip_duplicate(cursor):
    cursor.count.duplicated += 1
    cursor.advance()
