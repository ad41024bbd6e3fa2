"""The columns of each collection, and a batch of events as a table of them.

Each collection has one schema, which never follows from a batch. A value that does not fit its
column is null, in that row only, and the column `event` keeps the truth: the whole event, byte
for byte as it came.
"""

import polars as pl

from redis_kit.events import BLOCK, FOLLOW, LIKE, POST, REPOST

# column: (type, where in the event it is found)
COMMON = {
    "did": (pl.String, ("did",)),
    "time_us": (pl.Int64, ("time_us",)),
    "collection": (pl.String, ("commit", "collection")),
    "operation": (pl.String, ("commit", "operation")),
    "rkey": (pl.String, ("commit", "rkey")),
    "rev": (pl.String, ("commit", "rev")),
    "cid": (pl.String, ("commit", "cid")),
    "created_at": (pl.String, ("commit", "record", "createdAt")),
}
SUBJECT_POST = {
    "subject_uri": (pl.String, ("commit", "record", "subject", "uri")),
    "subject_cid": (pl.String, ("commit", "record", "subject", "cid")),
    "via_uri": (pl.String, ("commit", "record", "via", "uri")),
}
SUBJECT_PERSON = {"subject_did": (pl.String, ("commit", "record", "subject"))}
OWN = {
    POST: {
        "text": (pl.String, ("commit", "record", "text")),
        "langs": (pl.List(pl.String), ("commit", "record", "langs")),
        "reply_root_uri": (pl.String, ("commit", "record", "reply", "root", "uri")),
        "reply_parent_uri": (pl.String, ("commit", "record", "reply", "parent", "uri")),
        "embed_type": (pl.String, ("commit", "record", "embed", "$type")),
    },
    LIKE: SUBJECT_POST,
    REPOST: SUBJECT_POST,
    FOLLOW: SUBJECT_PERSON,
    BLOCK: SUBJECT_PERSON,
}


def rows(collection, batch):
    """A DataFrame of [(StreamId, event bytes, event as a dict)], in the collection's schema."""
    columns = COMMON | OWN[collection]
    series = [
        pl.Series("stream_id", [str(stream_id) for stream_id, _, _ in batch], pl.String),
        pl.Series("number", [stream_id.number for stream_id, _, _ in batch], pl.Int64),
    ]
    for name, (dtype, path) in columns.items():
        fits = FITS[dtype]
        values = [found(event, path) for _, _, event in batch]
        values = [value if fits(value) else None for value in values]
        series.append(pl.Series(name, values, dtype))
    series.append(pl.Series("event", [raw.decode() for _, raw, _ in batch], pl.String))
    return pl.DataFrame(series)


def found(event, path):
    """What stands at path in the event, None where the way there is not made of objects."""
    for key in path:
        event = event.get(key) if isinstance(event, dict) else None
    return event


def is_text(value):
    """Whether it is text that UTF-8 can hold: JSON may escape half a surrogate pair."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


FITS = {
    pl.String: is_text,
    pl.Int64: lambda value: type(value) is int and -(2**63) <= value < 2**63,
    pl.List(pl.String): lambda value: isinstance(value, list) and all(map(is_text, value)),
}
