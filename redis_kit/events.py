"""Events: what is asked of any of them, and a simulated firehose of valid ones.

    {"did": ..., "time_us": ..., "kind": "commit", "commit": {"rev": ..., "operation": "create",
     "collection": ..., "rkey": ..., "record": {...}, "cid": ...}}

Field by field Jetstream's v1 JSON (github.com/bluesky-social/jetstream). An event of the
simulation follows from the seed and its index alone, so it can be made again at any time:
the pipeline starts anywhere, and the audit compares rows with the very bytes that were sent.

Knows nothing of Redis, files or clocks. The records are plain creates: no replies, no embeds.
"""

import base64
import functools
import hashlib
import json
import random
from datetime import UTC, datetime
from itertools import accumulate

import libipld
import orjson

POST, LIKE, REPOST = "app.bsky.feed.post", "app.bsky.feed.like", "app.bsky.feed.repost"
FOLLOW, BLOCK = "app.bsky.graph.follow", "app.bsky.graph.block"
COLLECTIONS = (POST, LIKE, REPOST, FOLLOW, BLOCK)

# Shares of 240.6 million events in eight days of April 2026; they need not add up to 1.
FIREHOSE_MIX = {POST: 0.117, LIKE: 0.672, REPOST: 0.110, FOLLOW: 0.078, BLOCK: 0.007}

EPOCH_US = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
LATEST_US = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
PEOPLE, OLDER_POSTS = 10_000, 1_000


# 1. Any event ------------------------------------------------------------------------


class BadEvent(ValueError):
    """It cannot be numbered; the message says why."""


def read_event(raw):
    """(collection, time_us, event as a dict) of JSON bytes; BadEvent if it cannot be numbered."""
    event = decode(raw)
    if not isinstance(event, dict):
        raise BadEvent("not a JSON object")
    commit, time_us = event.get("commit"), event.get("time_us")
    # A time far in the future would drag every later stream ID along with it.
    if type(time_us) is not int or not 0 < time_us < LATEST_US:
        raise BadEvent("time_us is not a number of microseconds before 2100")
    if not isinstance(event.get("did"), str):
        raise BadEvent("no did")
    if not isinstance(commit, dict) or commit.get("collection") not in COLLECTIONS:
        raise BadEvent("no commit to a collection that is collected here")
    return commit["collection"], time_us, event


def decode(raw):
    """JSON bytes to Python. orjson is quick and strict; what it refuses json may still take."""
    try:
        return orjson.loads(raw)
    except ValueError:
        pass
    try:
        return json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadEvent(f"not JSON in UTF-8: {error}") from None


# 2. The simulated firehose -----------------------------------------------------------


class Firehose:
    """A set of events: the same four numbers always give the same bytes in the same order.

    seed is the second at which it starts, counted from 2025-01-01 UTC; rate is events/s over
    all collections, 0 for 10 us apart. Iterating needs no memory beyond one event.
    """

    def __init__(self, seed, rate, mix, events_per_collection):
        self.seed, self.rate, self.mix = seed, rate, mix
        self.events_per_collection = events_per_collection
        self.starts_us = EPOCH_US + seed * 1_000_000

    @property
    def name(self):
        """What the footer of each of its files says: the flags that define it."""
        return (
            f"simulator seed={self.seed} rate={self.rate!r} mix={self.mix} "
            f"events_per_collection={self.events_per_collection}"
        )

    def __len__(self):
        return self.events_per_collection * len(COLLECTIONS)

    def collections(self):
        """The collection of each event, in order."""
        if self.mix == "equal":
            for collection in COLLECTIONS:
                for _ in range(self.events_per_collection):
                    yield collection
            return
        draw = random.Random(self.seed)
        bounds = list(accumulate(FIREHOSE_MIX.values()))
        for _ in range(len(self)):
            yield draw.choices(COLLECTIONS, cum_weights=bounds)[0]

    def time_us(self, index):
        """When event `index` is due, in Unix microseconds."""
        return self.starts_us + (int(index * 1e6 / self.rate) if self.rate else index * 10)

    def events(self, behind):
        """(index, collection, number in the set, JSON bytes), less the first `behind[collection]`.

        Numbers begin at 1 in each collection.
        """
        numbers = dict.fromkeys(COLLECTIONS, 0)
        for index, collection in enumerate(self.collections()):
            numbers[collection] += 1
            if numbers[collection] > behind[collection]:
                raw = self.event(index, collection)
                yield index, collection, numbers[collection], raw

    def event(self, index, collection):
        """Event `index` as compact JSON bytes."""
        time_us = self.time_us(index)
        noise = hashlib.blake2b(b"%d %d" % (self.seed, index), digest_size=16).digest()
        author, other, clock = (int.from_bytes(noise[at : at + 4]) for at in (0, 4, 8))
        record = RECORDS[collection](other, timestamp(time_us))
        commit = {
            "rev": tid(time_us, clock % 1024),
            "operation": "create",
            "collection": collection,
            "rkey": tid(time_us - 1000, clock % 1024),
            "record": record,
            "cid": cid(record),
        }
        return orjson.dumps(
            {"did": did(author % PEOPLE), "time_us": time_us, "kind": "commit", "commit": commit}
        )


# 3. Records --------------------------------------------------------------------------

WORDS = (
    "sky river garden paper window little bright quiet morning evening train coffee music "
    "letter winter summer question answer mountain harbour story colour friend market bread"
).split()


def post(choice, created_at):
    words = [WORDS[(choice >> shift) % len(WORDS)] for shift in range(8 + choice % 16)]
    text = " ".join(words).capitalize() + "."
    return {"$type": POST, "text": text, "langs": ["en"], "createdAt": created_at}


def like(choice, created_at):
    return {"$type": LIKE, "subject": older_post(choice % OLDER_POSTS), "createdAt": created_at}


def repost(choice, created_at):
    return {"$type": REPOST, "subject": older_post(choice % OLDER_POSTS), "createdAt": created_at}


def follow(choice, created_at):
    return {"$type": FOLLOW, "subject": did(choice % PEOPLE), "createdAt": created_at}


def block(choice, created_at):
    return {"$type": BLOCK, "subject": did(choice % PEOPLE), "createdAt": created_at}


RECORDS = {POST: post, LIKE: like, REPOST: repost, FOLLOW: follow, BLOCK: block}


@functools.cache
def older_post(which):
    """uri and cid of one of the posts that were there before the simulation began."""
    time_us = EPOCH_US - (which + 1) * 60_000_000
    record = post(which, timestamp(time_us))
    return {"cid": cid(record), "uri": f"at://{did(which)}/{POST}/{tid(time_us, which)}"}


# 4. Spelling -------------------------------------------------------------------------


@functools.lru_cache(PEOPLE)
def did(person):
    """did:plc: and 24 characters of base32, as the PLC directory makes them from a hash."""
    digest = hashlib.sha256(b"person %d" % person).digest()[:15]
    return "did:plc:" + base64.b32encode(digest).decode().lower()


SORTABLE = "234567abcdefghijklmnopqrstuvwxyz"
PAIRS = [high + low for high in SORTABLE for low in SORTABLE]


def tid(time_us, clock_id):
    """A TID: 53 bits of microseconds and 10 of clock ID, 13 characters that sort as time does.

    Source: atproto.com/specs/tid. Ten bits make two characters, so a table of pairs does it.
    """
    bits = time_us << 10 | clock_id
    pairs = [PAIRS[bits >> shift & 1023] for shift in (50, 40, 30, 20, 10, 0)]
    return SORTABLE[bits >> 60] + "".join(pairs)


def cid(record):
    """CIDv1, dag-cbor, SHA-256 of the very record, in base32: bafyrei..., 59 characters."""
    digest = hashlib.sha256(libipld.encode_dag_cbor(record)).digest()
    return libipld.encode_cid(b"\x01\x71\x12\x20" + digest)


def timestamp(time_us):
    """RFC 3339 with milliseconds and Z, as Bluesky's clients write createdAt."""
    second, millisecond = divmod(time_us // 1000, 1000)
    return f"{second_text(second)}.{millisecond:03d}Z"


@functools.lru_cache(64)
def second_text(second):
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"
