"""Events are what Jetstream sends, and always the same for the same flags."""

import hashlib
import json
from collections import Counter

import libipld
import pytest

from redis_kit.events import (
    COLLECTIONS,
    EPOCH_US,
    FIREHOSE_MIX,
    SORTABLE,
    BadEvent,
    Firehose,
    read_event,
)
from redis_kit.ids import StreamId

NOTHING = dict.fromkeys(COLLECTIONS, 0)


def events(**changes):
    settings = {"seed": 5, "rate": 50, "mix": "firehose", "events_per_collection": 40}
    return list(Firehose(**settings | changes).events(NOTHING))


def time_of(tid):
    value = 0
    for character in tid:
        value = value * 32 + SORTABLE.index(character)
    return value >> 10


def test_the_same_flags_give_the_same_bytes():
    assert events() == events()


@pytest.mark.parametrize("change", [{"seed": 6}, {"rate": 0}, {"mix": "equal"}])
def test_other_flags_give_other_events(change):
    assert [raw for *_, raw in events(**change)] != [raw for *_, raw in events()]


def test_what_is_behind_is_left_out_and_nothing_else_changes():
    behind = NOTHING | {"app.bsky.feed.like": 7}
    rest = list(Firehose(5, 50, "firehose", 40).events(behind))

    assert rest == [each for each in events() if each[2] > behind[each[1]]]


def test_equal_gives_each_collection_in_turn():
    in_turn = [collection for _, collection, _, _ in events(mix="equal")]

    assert in_turn == [collection for collection in COLLECTIONS for _ in range(40)]


def test_firehose_draws_the_same_total_by_the_real_mix():
    firehose = Firehose(5, 0, "firehose", 2000)
    counts, total = Counter(firehose.collections()), sum(FIREHOSE_MIX.values())

    assert sum(counts.values()) == len(firehose) == 10_000
    for collection, share in FIREHOSE_MIX.items():
        assert counts[collection] / 10_000 == pytest.approx(share / total, abs=0.02)


def test_event_i_is_due_i_through_rate_after_the_seed():
    for rate, gap_us in ((50, 20_000), (0, 10)):
        times = [json.loads(raw)["time_us"] for *_, raw in events(rate=rate)]
        assert times == [EPOCH_US + 5_000_000 + i * gap_us for i in range(200)]


def test_keys_stand_in_jetstreams_order():
    for *_, raw in events():
        event = json.loads(raw)
        assert list(event) == ["did", "time_us", "kind", "commit"]
        assert list(event["commit"]) == "rev operation collection rkey record cid".split()


def test_the_cid_is_that_of_the_very_record():
    for *_, raw in events():
        commit = json.loads(raw)["commit"]
        digest = hashlib.sha256(libipld.encode_dag_cbor(commit["record"])).digest()
        assert libipld.decode_multibase(commit["cid"])[1] == b"\x01\x71\x12\x20" + digest
        assert len(commit["cid"]) == 59


def test_tids_agree_with_the_time():
    for *_, raw in events():
        event = json.loads(raw)
        assert time_of(event["commit"]["rev"]) == event["time_us"]
        assert 0 <= event["time_us"] - time_of(event["commit"]["rkey"]) <= 1_000_000


@pytest.mark.parametrize(
    "raw, reason",
    [
        (b"", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"did": "d\xff"}', "not JSON in UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"did":"d","commit":{"collection":"app.bsky.feed.post"}}', "time_us"),
        (b'{"did":"d","time_us":true,"commit":{"collection":"app.bsky.feed.post"}}', "time_us"),
        (b'{"did":"d","time_us":1e6,"commit":{"collection":"app.bsky.feed.post"}}', "time_us"),
        (b'{"did":"d","time_us":99999999999999999,"commit":{}}', "time_us"),
        (b'{"time_us":1,"commit":{"collection":"app.bsky.feed.post"}}', "no did"),
        (b'{"did":"d","time_us":1,"kind":"identity"}', "collection"),
        (b'{"did":"d","time_us":1,"commit":{"collection":"../../etc"}}', "collection"),
        (b'{"did":"d","time_us":1,"commit":{"collection":["app.bsky.feed.post"]}}', "collection"),
    ],
)
def test_what_cannot_be_numbered_says_why(raw, reason):
    with pytest.raises(BadEvent, match=reason):
        read_event(raw)


def test_half_a_surrogate_pair_can_be_numbered():
    raw = rb'{"did":"d","time_us":1,"commit":{"collection":"app.bsky.feed.post","x":"\ud800"}}'

    assert read_event(raw)[:2] == ("app.bsky.feed.post", 1)


def test_a_millisecond_never_falls_and_a_number_always_grows():
    now = StreamId(1_000, 7)

    assert now.following(2_000_999) == StreamId(2_000, 8)
    assert now.following(500_000) == StreamId(1_000, 8)
    assert StreamId(9, 1) < StreamId(10, 1) < StreamId(10, 2)
    assert StreamId.parse(b"12-3") == StreamId.parse("12-3") == StreamId(12, 3)
