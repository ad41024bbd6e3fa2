"""One stage at a time, on a real server: what a writer takes, and what ingestion may append."""

import os
import queue
import threading
import time

import polars as pl
import pytest
import redis

import jetstream_load_test as script
from jetstream_load_test import DataIngestion, DataWriter
from redis_kit import sink as sink_module
from redis_kit import streams
from redis_kit.alarm import Alarm, Trouble
from redis_kit.events import COLLECTIONS, LIKE, POST, Firehose
from redis_kit.ids import BEFORE_FIRST, StreamId
from redis_kit.sink import ParquetSink
from redis_kit.streams import GROUP, stream_key
from redis_kit.telemetry import Tally

KEY = stream_key(POST)
FIREHOSE = Firehose(10, 0, "equal", 1000)


@pytest.fixture
def sink(tmp_path):
    found = ParquetSink(tmp_path)
    found.load()
    found.begin_set("a set")
    return found


@pytest.fixture
def tally():
    found = Tally()
    for collection in COLLECTIONS:
        found.begin("ingested", collection, 0)
    return found


def no_seam(name):
    pass


def writer(client, sink, tally, **settings):
    found = DataWriter(client, POST, sink, tally, Alarm(), no_seam, **{"batch_size": 10} | settings)
    streams.ensure_group(client, POST, sink.last_id(POST))
    return found


def ingestion(client, sink, tally, maxlen=1000):
    for collection in COLLECTIONS:
        streams.ensure_group(client, collection, BEFORE_FIRST)
    return DataIngestion(client, queue.Queue(), sink, tally, Alarm(), no_seam, maxlen)


def entries(first, last):
    """Entries as ingestion appends them: [(collection, StreamId, event bytes)]."""
    return [
        (POST, StreamId(FIREHOSE.time_us(n - 1) // 1000, n), FIREHOSE.event(n - 1, POST))
        for n in range(first, last + 1)
    ]


def stored_numbers(sink):
    paths = sorted(sink.data_dir.glob(f"*/{POST}/*.parquet"), key=sink_module.first_number)
    return [number for path in paths for number in pl.read_parquet(path)["number"]]


def pending(client):
    return client.xpending(KEY, GROUP)["pending"]


# 1. The writer -----------------------------------------------------------------------


def test_it_takes_number_after_number_and_acknowledges_what_is_on_disk(client, sink, tally):
    found = writer(client, sink, tally)
    streams.append(client, entries(1, 25), 1000)

    found.settle()

    assert stored_numbers(sink) == list(range(1, 26))
    assert pending(client) == 0


def test_disk_first_acknowledgement_second(client, sink, tally, monkeypatch):
    calls = []
    for module, name in ((os, "link"), (os, "fsync"), (streams, "acknowledge")):
        monkeypatch.setattr(module, name, recorded(calls, name, getattr(module, name)))
    monkeypatch.setattr(
        ParquetSink, "write_content", recorded(calls, "write", ParquetSink.write_content)
    )
    found = writer(client, sink, tally)
    streams.append(client, entries(1, 10), 1000)
    folders = ["fsync", "fsync"]  # the new folders of the day and of the collection

    found.settle()

    assert calls == [*folders, "write", "fsync", "link", "fsync", "acknowledge"]


def recorded(calls, name, function):
    def call(*args, **kwargs):
        calls.append(name)
        return function(*args, **kwargs)

    return call


def test_what_a_file_holds_already_is_acknowledged_and_dropped(client, sink, tally):
    dead = writer(client, sink, tally)
    streams.append(client, entries(1, 10), 1000)
    sink.write(POST, [(i, raw, {}) for (_, i, raw) in entries(1, 10)])
    dead.read()
    assert pending(client) == 10

    writer(client, sink, tally).settle()

    assert stored_numbers(sink) == list(range(1, 11))
    assert pending(client) == 0


def test_a_missing_number_empties_the_stream_and_ends_the_pass(client, sink, tally):
    found = writer(client, sink, tally)
    streams.append(client, [*entries(1, 3), *entries(5, 6)], 1000)

    with pytest.raises(Trouble, match=r"after \d+-3 came \d+-5"):
        found.settle()

    assert not client.exists(KEY)
    assert stored_numbers(sink) == []


def test_a_pending_entry_that_is_gone_ends_the_pass(client, sink, tally):
    found = writer(client, sink, tally)
    streams.append(client, entries(1, 3), 1000)
    found.read()
    client.xdel(KEY, str(entries(2, 2)[0][1]))

    with pytest.raises(Trouble):
        writer(client, sink, tally).settle()


@pytest.mark.parametrize(
    "fields",
    [
        {"hello": "world"},
        {"event": "no JSON"},
        {"event": FIREHOSE.event(2, LIKE)},  # of another collection
        {"event": Firehose(99, 0, "equal", 9).event(0, POST)},  # of another millisecond
    ],
)
def test_an_entry_that_is_not_ours_is_never_a_row(client, sink, tally, fields):
    """Even with the ID that comes next: the row that belongs there comes after it."""
    found = writer(client, sink, tally)
    streams.append(client, entries(1, 2), 1000)
    next_id = entries(3, 3)[0][1]
    client.xadd(KEY, fields, id=str(next_id))

    found.settle()

    assert stored_numbers(sink) == [1, 2]
    assert tally.dead_letters == 1 and pending(client) == 0
    assert streams.last_generated_id(client, POST) < next_id, "its ID would block ours"


def test_a_strangers_id_beyond_the_files_does_not_block_ours(client, sink, tally):
    found = writer(client, sink, tally)
    client.xadd(KEY, {"hello": "world"}, id="9999999999999-9")

    found.settle()
    streams.append(client, entries(1, 10), 1000)
    found.take(found.read())

    assert stored_numbers(sink) == list(range(1, 11))


def test_a_group_is_made_again_where_the_files_end(client, sink, tally):
    writer(client, sink, tally)
    streams.append(client, entries(1, 20), 1000)
    sink.write(POST, [(i, raw, {}) for (_, i, raw) in entries(1, 10)])
    client.xgroup_destroy(KEY, GROUP)

    writer(client, sink, tally).settle()

    assert stored_numbers(sink) == list(range(1, 21))


def test_entries_that_no_read_finds_end_the_pass(client, sink, tally, monkeypatch):
    """As after a read that the client gave up and the server executed later."""
    monkeypatch.setattr(streams, "SOCKET_SECONDS", 0.3)
    source = ingestion(client, sink, tally)
    source.append(entries(1, 5))
    client.xreadgroup(GROUP, "writer", {KEY: ">"})
    found = writer(client, sink, tally)
    threading.Timer(5, found.alarm.ring, [None]).start()  # else it would wait for ever

    with pytest.raises(Trouble, match="none is found"):
        found.run(source, threading.Event())


def test_a_batch_that_is_not_full_is_written_after_a_while(client, sink, tally):
    source, ingested = ingestion(client, sink, tally), threading.Event()
    found = writer(client, sink, tally, flush_seconds=0.2)
    source.append(entries(1, 5))
    running = threading.Thread(target=found.run, args=(source, ingested))
    running.start()

    deadline = time.monotonic() + 10
    while not stored_numbers(sink) and time.monotonic() < deadline:
        time.sleep(0.05)
    stored_before_the_end = stored_numbers(sink)
    ingested.set()
    running.join()

    assert stored_before_the_end == [1, 2, 3, 4, 5]


def test_nothing_is_left_when_ingestion_is_done(client, sink, tally):
    source, ingested = ingestion(client, sink, tally), threading.Event()
    found = writer(client, sink, tally, flush_seconds=3600)
    source.append(entries(1, 25))
    ingested.set()

    found.run(source, ingested)

    assert stored_numbers(sink) == list(range(1, 26)) and pending(client) == 0


# 2. Ingestion ------------------------------------------------------------------------


def burst(*raws):
    return [(time.monotonic(), raw) for raw in raws]


def test_events_are_numbered_on_from_what_is_on_disk(client, sink, tally):
    sink.write(POST, [(i, raw, {}) for (_, i, raw) in entries(1, 10)])
    for collection in COLLECTIONS:
        streams.ensure_group(client, collection, sink.last_id(collection))
    source = DataIngestion(client, queue.Queue(), sink, tally, Alarm(), no_seam)

    source.ingest(burst(*(raw for *_, raw in entries(11, 12))))

    assert [i for i, _ in client.xrange(KEY)] == [str(i).encode() for _, i, _ in entries(11, 12)]


def test_a_clock_that_steps_back_does_not_take_the_ids_with_it(client, sink, tally):
    source = ingestion(client, sink, tally)
    later, earlier = FIREHOSE.event(500_000, POST), FIREHOSE.event(0, POST)

    source.ingest(burst(later, earlier))

    (first, _), (second, _) = client.xrange(KEY)
    assert first.split(b"-")[0] == second.split(b"-")[0] and second.endswith(b"-2")


def test_a_burst_is_one_round_trip(client, sink, tally, monkeypatch):
    source, sent = ingestion(client, sink, tally), []
    source.ingest(burst(FIREHOSE.event(0, POST)))  # asks for the memory, too
    send = redis.connection.Connection.send_packed_command
    monkeypatch.setattr(
        redis.connection.Connection, "send_packed_command", recorded(sent, "sent", send)
    )

    source.ingest(burst(*(raw for *_, raw in entries(2, 200))))

    assert client.xlen(KEY) == 200 and len(sent) == 2, "the burst, and this XLEN"


def test_a_stream_that_is_gone_is_not_made_by_ingestion(client, sink, tally):
    source = ingestion(client, sink, tally)
    client.delete(KEY)

    with pytest.raises(Trouble, match="gone"):
        source.ingest(burst(FIREHOSE.event(0, POST)))

    assert not client.exists(KEY)


def test_an_id_that_is_refused_is_never_explained_away(client, sink, tally):
    source = ingestion(client, sink, tally)
    client.xadd(KEY, {"hello": "world"}, id="9999999999999-1")

    with pytest.raises(Exception, match="equal or smaller"):
        source.ingest(burst(FIREHOSE.event(0, POST)))


def test_a_burst_is_cut_to_the_room_there_is(client, sink, tally):
    source = ingestion(client, sink, tally, maxlen=40)
    running = threading.Thread(
        target=source.ingest, args=(burst(*(raw for *_, raw in entries(1, 50))),)
    )
    running.start()
    time.sleep(0.5)
    waiting_at = client.xlen(KEY)
    found = writer(client, sink, tally)
    for _ in range(5):
        found.take(found.read(100))
        time.sleep(0.1)
    running.join(10)

    assert waiting_at == 20, "half of MAXLEN is for what is on no disk yet"
    assert not running.is_alive() and source.appended[POST].number == 50


def test_waiting_for_room_ends_with_the_pass(client, sink, tally):
    source = ingestion(client, sink, tally, maxlen=40)
    running = threading.Timer(0.3, source.alarm.ring, [Trouble("another stage failed")])
    running.start()

    with pytest.raises(Trouble):
        source.ingest(burst(*(raw for *_, raw in entries(1, 50))))


def test_a_bad_event_costs_one_event(client, sink, tally):
    source = ingestion(client, sink, tally)
    (_, _, first), (_, _, second) = entries(1, 2)

    source.ingest(burst(first, b"no JSON", b"\xff", second, b"no JSON"))

    assert [i.split(b"-")[1] for i, _ in client.xrange(KEY)] == [b"1", b"2"]
    assert tally.dead_letters == 2
    assert len(list((sink.data_dir / "dead_letter").glob("*.event"))) == 2


def test_after_a_failure_the_queue_is_emptied_all_the_same(client, sink, tally):
    source = ingestion(client, sink, tally)
    client.delete(KEY)
    for n in range(3):
        source.events_queue.put(burst(FIREHOSE.event(n, POST)))
    source.events_queue.put(script.END)

    source.run()

    assert source.events_queue.empty() and isinstance(source.alarm.error, Trouble)
