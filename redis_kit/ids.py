"""Rule 1 of the kit: the events of a collection are numbered, and a number becomes a stream ID.

    1754571487123-301      the 301st event of its collection, seen at that millisecond

Two IDs tell how many events lie between them, so whoever reads a stream or a folder notices
a gap by counting. IDs compare as Redis compares them: millisecond first, number second.
"""

from datetime import UTC, datetime
from typing import NamedTuple


class StreamId(NamedTuple):
    """A stream ID as two integers: Unix milliseconds and the event's number in its collection."""

    millisecond: int
    number: int

    @classmethod
    def parse(cls, text):
        """StreamId of b'1754571487123-301' or its str; ValueError if it is no stream ID."""
        millisecond, number = (text.decode() if isinstance(text, bytes) else text).split("-")
        return cls(int(millisecond), int(number))

    def __str__(self):
        return f"{self.millisecond}-{self.number}"

    def following(self, time_us):
        """The next ID, for an event seen at time_us (Unix microseconds).

        The millisecond never falls, whatever the clock does: Redis would refuse the ID.
        """
        return StreamId(max(time_us // 1000, self.millisecond), self.number + 1)

    @property
    def time(self):
        """The millisecond as a datetime in UTC."""
        return datetime.fromtimestamp(self.millisecond / 1000, UTC)

    @property
    def day(self):
        """The name of the day's folder: 2025_08_07 (UTC)."""
        return f"{self.time:%Y_%m_%d}"


BEFORE_FIRST = StreamId(0, 0)
