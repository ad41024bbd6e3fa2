"""Every stream command of the pipeline, and the connection that sends it.

    jetstream:app.bsky.feed.post    a stream per collection; an entry's one field is `event`
    parquet_writers / writer        its consumer group, and the group's only consumer

One command, one function, so that the stages read as sentences. Refuses to retry: a command
that is sent again because its reply was lost has happened twice. What a lost reply means is
decided by the passes of jetstream_load_test.py, which start again from what is on disk.
"""

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from redis_kit.alarm import Refused, Trouble
from redis_kit.events import COLLECTIONS
from redis_kit.ids import StreamId
from redis_kit.server import OLDEST, safe_url

PREFIX = "jetstream:"
FIELD = b"event"
GROUP, CONSUMER = "parquet_writers", "writer"
SOCKET_SECONDS = 5.0
BLOCK_MS = 100


# 1. The connection -------------------------------------------------------------------


def connect(url):
    """A client that sends each command once. Nothing is sent before the first command.

    SOCKET_SECONDS is longer than BLOCK_MS, or each idle read would look like a dead server.
    ValueError or TypeError if the URL is none.
    """
    pool = redis.ConnectionPool.from_url(url)
    # Set here, because parameters in the URL win over arguments.
    pool.connection_kwargs.update(
        protocol=2,
        decode_responses=False,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=SOCKET_SECONDS,
        socket_connect_timeout=SOCKET_SECONDS,
    )
    return redis.Redis.from_pool(pool)


def meet(url):
    """A client of the server at url, and (name, version) as people know it.

    Refused, in one line, if there is no server that the kit can use.
    """
    try:
        client = connect(url)
        about = client.info("server")
    except (redis.RedisError, OSError) as error:
        reason = f"{error}".rstrip(".")
        raise Refused(
            f"no Redis at {safe_url(url)}: {reason}. Start one with ./start_local.sh"
        ) from None
    except (ValueError, TypeError):  # whose text may hold a part of the password
        raise Refused(
            f"no Redis at {safe_url(url)}: not a URL like redis://:PASSWORD@HOST:PORT/0"
        ) from None
    if "valkey_version" in about:  # beside the Redis version that it is compatible with
        return client, ("Valkey", about["valkey_version"])
    version = about.get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise Refused(f"{safe_url(url)} is Redis {version}: the kit needs 6.2 or later")
    return client, ("Redis", version)


def memory_left(client, share):
    """Bytes until `share` of maxmemory is used, negative beyond it; None without a limit."""
    about = client.info("memory")
    if not about.get("maxmemory"):
        return None
    return int(about["maxmemory"] * share) - about["used_memory"]


# 2. The stream and its group ---------------------------------------------------------


def stream_key(collection):
    return f"{PREFIX}{collection}"


def ensure_group(client, collection, after):
    """Make the stream and its group, unless they are there.

    The group begins behind `after`, where the files end. At $ it would skip what was
    appended while there was no group.
    """
    try:
        client.xgroup_create(stream_key(collection), GROUP, id=str(after), mkstream=True)
    except redis.ResponseError as error:
        if "WRONGTYPE" in str(error):  # somebody put another thing in its place
            delete(client, collection)
            ensure_group(client, collection, after)
        elif "BUSYGROUP" not in str(error):
            raise


def last_generated_id(client, collection):
    """The largest ID that the stream has ever held: what Redis measures new ones against."""
    return StreamId.parse(client.xinfo_stream(stream_key(collection))["last-generated-id"])


def unsettled(client, collection):
    """Whether the stream may hold entries that no writer has acknowledged."""
    key = stream_key(collection)
    if not client.exists(key):
        return False
    groups = [group for group in client.xinfo_groups(key) if group["name"] == GROUP.encode()]
    if not groups:
        return client.xlen(key) > 0
    delivered = StreamId.parse(groups[0]["last-delivered-id"])
    return groups[0]["pending"] > 0 or delivered < last_generated_id(client, collection)


def delete(client, collection):
    """Empty the buffer. Nothing is lost: what is on no disk yet, the source gives again."""
    client.delete(stream_key(collection))


# 3. In -------------------------------------------------------------------------------


def append(client, entries, maxlen):
    """XADD [(collection, StreamId, event bytes)] in one round trip; Trouble if one is refused.

    ~ trims whole nodes only, so a stream holds a little more than maxlen, never less.
    NOMKSTREAM: a stream that is gone must not come back empty and look complete.
    """
    with client.pipeline(transaction=False) as pipe:
        for collection, stream_id, raw in entries:
            pipe.xadd(
                stream_key(collection),
                {FIELD: raw},
                id=str(stream_id),
                maxlen=maxlen,
                approximate=True,
                nomkstream=True,
            )
        if not all(pipe.execute()):
            raise Trouble("a stream is gone")


def trim_stored(client, last_id):
    """Drop the entries that are on disk up to last_id(collection); the rest stays."""
    for collection in COLLECTIONS:
        client.xtrim(stream_key(collection), minid=str(last_id(collection)), approximate=False)


# 4. Out ------------------------------------------------------------------------------


def read_new(client, collection, count, block_ms=None):
    """Up to `count` entries that the group has not been given yet, as [(StreamId, fields)]."""
    return _read(client, collection, ">", count, block_ms)


def read_pending(client, collection, after, count):
    """Entries given before and never acknowledged, behind the ID `after`.

    One that is no longer in the stream comes back without fields.
    """
    return _read(client, collection, str(after), count, None)


def _read(client, collection, after, count, block_ms):
    key = stream_key(collection)
    reply = client.xreadgroup(GROUP, CONSUMER, {key: after}, count=count, block=block_ms)
    entries = reply[0][1] if reply else []
    return [(StreamId.parse(entry_id), fields or {}) for entry_id, fields in entries]


def acknowledge(client, collection, stream_ids):
    """XACK entries: Redis forgets that they were owed, so they must be safe elsewhere by now."""
    client.xack(stream_key(collection), GROUP, *map(str, stream_ids))
