"""Turn a batch of numbered events into one Parquet file. Knows nothing of Redis.

    data/2025_08_07/app.bsky.feed.post/data_20250807_125807_301.parquet
                                             |               |
                         time of its first event (UTC)       its number in the collection

A file exists once or not at all, and its name ends in the number it begins with: that number
plus its rows is the number of the next file. So one look at a folder shows whether something
is missing, and two writers that both believe to be next meet at one name, and one of them
loses. What is in the newest file of a collection is all that a new run needs to know.

Refuses to write over anything, and to be believed before the disk itself has it.
"""

import errno
import fcntl
import hashlib
import io
import os
import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyarrow.parquet as pq

from redis_kit.alarm import Refused
from redis_kit.events import COLLECTIONS
from redis_kit.ids import BEFORE_FIRST, StreamId
from redis_kit.schemas import rows

# 1. The directory as a log -----------------------------------------------------------

DAY = re.compile(r"\d{4}_\d{2}_\d{2}")
FILE = re.compile(r"data_\d{8}_\d{6}_(\d+)\.parquet")


class UnreadableFile(Refused):
    """A Parquet file where ours should be that this kit did not write; the message names it."""


@dataclass(frozen=True)
class Footer:
    """What a file says of itself, and what the directory knows of a collection from it."""

    first: StreamId
    last: StreamId
    set_name: str
    set_begins: int


def day_folders(data_dir, newest_first=False):
    """The folders of days, in the order of their events."""
    days = [name for name in os.listdir(data_dir) if DAY.fullmatch(name)]
    return [Path(data_dir, day) for day in sorted(days, reverse=newest_first)]


def first_number(path):
    """The number that a file's name ends in; None if the name is not one of ours."""
    match = FILE.fullmatch(os.path.basename(path))
    return int(match[1]) if match else None


def newest_file(data_dir, collection):
    """The file that holds the collection's last number, or None. Looks at one folder only."""
    for day in day_folders(data_dir, newest_first=True):
        folder = day / collection
        if folder.is_dir():
            ours = [name for name in os.listdir(folder) if first_number(name) is not None]
            if ours:
                return folder / max(ours, key=first_number)
    return None


def read_footer(path):
    """The Footer of one of our files; UnreadableFile if it is none."""
    try:
        parquet = pq.read_metadata(path)
        said = {key.decode(): value.decode() for key, value in parquet.metadata.items()}
        first, last = StreamId.parse(said["first_id"]), StreamId.parse(said["last_id"])
        footer = Footer(first, last, said["source"], int(said["set_begins"]))
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise UnreadableFile(f"{path} is not a file of this kit: {error}") from error
    rows_expected = last.number - first.number + 1
    if parquet.num_rows != rows_expected or first.number != first_number(path):
        raise UnreadableFile(f"{path} does not hold the rows that its name and footer promise")
    return footer


# 2. Durable writes -------------------------------------------------------------------


def by_day(batch):
    """A batch in parts of one day each, for a file never crosses midnight (UTC)."""
    return [list(part) for _, part in groupby(batch, key=lambda entry: entry[0].day)]


def sync_file(descriptor):
    """Have the disk itself hold it; on macOS fsync alone stops at the drive's cache."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def sync_path(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder):
    """Make a folder, and have the one above it remember that durably."""
    if not folder.parent.exists():
        make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_path(folder.parent)


def create_name(temporary, path):
    """Give a finished file its name; FileExistsError if the name is taken.

    A link refuses a taken name in one step. A file system without links gets two steps,
    which are safe only because the directory is locked.
    """
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.rename(temporary, path)


class ParquetSink:
    """The data directory: where each collection stands, and how a batch gets there.

    Invariant: `last_id` is on disk and durable. Safe for one writer thread per collection.
    """

    def __init__(self, data_dir, seam=lambda name: None):
        self.data_dir, self.seam = Path(data_dir), seam
        self.newest, self.durable_folders, self.set_name = {}, set(), None

    def load(self):
        """Read how far each collection is, and make that durable before it is believed.

        The process that wrote it may have died between the file's name and its fsync.
        """
        self.durable_folders.clear()
        for collection in COLLECTIONS:
            # Never written to: after a crash it may be another name of a finished file.
            self.temporary(collection).unlink(missing_ok=True)
            path = newest_file(self.data_dir, collection)
            if path is None:
                self.newest.pop(collection, None)
                continue
            self.newest[collection] = read_footer(path)
            for each in (path, path.parent, path.parent.parent, self.data_dir):
                sync_path(each)

    def last_id(self, collection):
        """The ID of the last event that is on disk, BEFORE_FIRST if there is none."""
        footer = self.newest.get(collection)
        return footer.last if footer else BEFORE_FIRST

    def newest_set(self):
        """Name of the set stored last, and the StreamId of its last event; (None, 0-0) at first."""
        footers = sorted(self.newest.values(), key=lambda footer: footer.last)
        return (footers[-1].set_name, footers[-1].last) if footers else (None, BEFORE_FIRST)

    def begin_set(self, set_name):
        """From now on, files belong to this set."""
        self.set_name = set_name

    def set_begins(self, collection):
        """The number of the current set's first event, whether stored or still to come."""
        footer = self.newest.get(collection)
        if footer and footer.set_name == self.set_name:
            return footer.set_begins
        return self.last_id(collection).number + 1

    def write(self, collection, batch):
        """Store [(StreamId, event bytes, event as a dict)] of one day; returns the file's size.

        The content first, then the name, then the folder that lists the name: when it returns,
        the events survive a power loss.
        """
        first, last = batch[0][0], batch[-1][0]
        footer = Footer(first, last, self.set_name, self.set_begins(collection))
        path = self.path(collection, first)
        self.ensure_folder(path.parent)
        temporary = self.temporary(collection)
        try:
            size = self.write_content(temporary, rows(collection, batch), footer)
            self.seam("before_rename")
            create_name(temporary, path)
            self.seam("after_rename")
        finally:
            temporary.unlink(missing_ok=True)
        sync_path(path.parent)
        self.newest[collection] = footer
        return size

    def write_content(self, temporary, frame, footer):
        said = {
            "first_id": str(footer.first),
            "last_id": str(footer.last),
            "source": footer.set_name,
            "set_begins": str(footer.set_begins),
        }
        buffer = io.BytesIO()  # polars hides the errno of a full disk; a file of ours tells it
        frame.write_parquet(buffer, compression="zstd", metadata=said)
        with open(temporary, "xb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            sync_file(file.fileno())
            return file.tell()

    def path(self, collection, first):
        name = f"data_{first.time:%Y%m%d_%H%M%S}_{first.number}.parquet"
        return self.data_dir / first.day / collection / name

    def temporary(self, collection):
        return self.data_dir / f".{collection}.tmp"

    def ensure_folder(self, folder):
        """Folders below the data directory, made durable once a pass: another may have died
        between making one and its fsync."""
        if folder not in self.durable_folders and folder != self.data_dir:
            self.ensure_folder(folder.parent)
            make_folder(folder)
            self.durable_folders.add(folder)

    def dead_letter(self, raw, reason):
        """Keep bytes that are no row, under their SHA-256; True if they were not there yet."""
        folder = self.data_dir / "dead_letter"
        self.ensure_folder(folder)
        path = folder / f"{hashlib.sha256(raw).hexdigest()}.event"
        if path.exists():
            return False
        for name, content in ((path.with_suffix(".reason"), reason.encode() + b"\n"), (path, raw)):
            with open(name.with_suffix(".tmp"), "wb") as file:
                file.write(content)
                file.flush()
                sync_file(file.fileno())
            os.replace(name.with_suffix(".tmp"), name)
        sync_path(folder)
        return True
