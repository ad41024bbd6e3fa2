"""The stream commands, as the pipeline uses them, and the connection that sends them once."""

import socket
import threading

import pytest
import redis

from redis_kit import streams
from redis_kit.events import POST
from redis_kit.ids import BEFORE_FIRST, StreamId

ONE, TWO = StreamId(5, 1), StreamId(5, 2)


def put(client, *stream_ids, maxlen=1000):
    streams.append(client, [(POST, each, b"{}") for each in stream_ids], maxlen)


def test_what_is_appended_is_given_once_and_pending_until_acknowledged(client):
    streams.ensure_group(client, POST, BEFORE_FIRST)
    put(client, ONE, TWO)

    assert streams.read_new(client, POST, 10) == [
        (ONE, {b"event": b"{}"}),
        (TWO, {b"event": b"{}"}),
    ]
    assert streams.read_new(client, POST, 10) == []
    assert [each for each, _ in streams.read_pending(client, POST, BEFORE_FIRST, 10)] == [ONE, TWO]
    assert [each for each, _ in streams.read_pending(client, POST, ONE, 10)] == [TWO]

    streams.acknowledge(client, POST, [ONE, TWO])

    assert streams.read_pending(client, POST, BEFORE_FIRST, 10) == []


def test_a_pending_entry_that_is_gone_has_no_fields(client):
    streams.ensure_group(client, POST, BEFORE_FIRST)
    put(client, ONE)
    streams.read_new(client, POST, 10)
    client.xdel(streams.stream_key(POST), str(ONE))

    assert streams.read_pending(client, POST, BEFORE_FIRST, 10) == [(ONE, {})]


def test_an_append_that_is_sent_twice_is_refused(client):
    streams.ensure_group(client, POST, BEFORE_FIRST)
    put(client, ONE)

    with pytest.raises(redis.ResponseError):
        put(client, ONE)
    assert client.xlen(streams.stream_key(POST)) == 1


def test_entries_are_unsettled_until_they_are_acknowledged(client):
    assert not streams.unsettled(client, POST)
    streams.ensure_group(client, POST, BEFORE_FIRST)
    assert not streams.unsettled(client, POST)
    put(client, ONE)
    assert streams.unsettled(client, POST)
    streams.read_new(client, POST, 10)
    assert streams.unsettled(client, POST)
    streams.acknowledge(client, POST, [ONE])
    assert not streams.unsettled(client, POST)
    client.xgroup_destroy(streams.stream_key(POST), streams.GROUP)
    assert streams.unsettled(client, POST), "nobody knows any more"


def test_what_is_on_disk_can_be_trimmed_and_the_rest_stays(client):
    streams.ensure_group(client, POST, BEFORE_FIRST)
    put(client, *(StreamId(5, n) for n in range(1, 301)))
    streams.trim_stored(client, lambda collection: StreamId(5, 200))

    left = streams.read_new(client, POST, 1000)
    assert [each.number for each, _ in left] == list(range(200, 301))


def test_a_command_whose_reply_is_lost_is_not_sent_again():
    received = []
    with socket.create_server(("127.0.0.1", 0)) as lossy:
        listening = threading.Thread(target=hang_up_after_one_command, args=(lossy, received))
        listening.start()
        client = streams.connect(f"redis://127.0.0.1:{lossy.getsockname()[1]}/0")
        with pytest.raises(redis.RedisError):
            client.xadd("k", {"event": "x"})
    listening.join(10)

    assert sum(data.count(b"XADD") for data in received) == 1


def hang_up_after_one_command(lossy, received):
    """Answers whatever opens a connection, and closes it instead of answering an XADD."""
    lossy.settimeout(1)
    try:
        while True:
            connection, _ = lossy.accept()
            with connection:
                while data := connection.recv(4096):
                    received.append(data)
                    if b"XADD" in data:
                        break
                    connection.sendall(b"+OK\r\n" * data.count(b"*"))
    except OSError:
        pass


def test_a_blocking_read_is_given_longer_than_it_blocks():
    assert streams.SOCKET_SECONDS > 2 * streams.BLOCK_MS / 1000
