#!/usr/bin/env python3
"""Is this a Redis server on which the kit can run? A script for people, a module for pytest.

    python test_redis_server.py [--redis-url URL]

    1. connection       time-outs of 10 s, one retry on a time-out, a health check every 30 s
    2. basic operations, streams: one command after the other, each reply compared
    3. configuration    each directive that the kit relies on: what was found, what it means
    4. records          100 are written, read, verified and deleted, in six steps

Every check is a function over a client that asserts what must hold. Keys are those of PREFIX
only, and they are gone afterwards, also after Ctrl+C. Ends with status 1 and the name of the
check that failed, 2 if no server was named.
"""

from redis_kit import preflight

if __name__ == "__main__":
    preflight.check()

import argparse
import json
import signal
import sys
import uuid
from collections import Counter
from contextlib import contextmanager

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from redis_kit import server, settings

PREFIX = "redis_kit_test:"
RECORDS, USERS, CATEGORIES = 100, 10, 5
GIB = 2**30
START = "./start_local.sh"
ADVICE = "Is the server full, read-only, or gone? Its log says more."


class Failed(Exception):
    """A check that did not hold; the message says what was expected and what to do."""


def expect(what, found, wanted, advice):
    if found != wanted:
        raise Failed(f"{what}: expected {wanted!r}, found {found!r}. {advice}")


# 1. Connection -----------------------------------------------------------------------


def connect(url):
    """A client as a person wants it: patient, and one more try when a reply is late."""
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=10,
        socket_connect_timeout=10,
        retry=Retry(NoBackoff(), 1),
        retry_on_timeout=True,
        health_check_interval=30,
    )


@contextmanager
def own_keys(client):
    """A prefix of our own on the client, emptied whatever happens inside."""
    prefix = f"{PREFIX}{uuid.uuid4().hex[:8]}:"
    try:
        yield prefix
    finally:
        keys = list(client.scan_iter(match=f"{prefix}*", count=1000))
        if keys:
            client.delete(*keys)


def show_server(client):
    client.ping()
    about = client.info()
    print("✅ Redis connection successful")
    print(f"📊 Redis version: {about['redis_version']}")
    print(f"📊 Connected clients: {about['connected_clients']}")
    print(f"📊 Used memory: {about['used_memory_human']}")
    print(f"📊 Max memory: {about.get('maxmemory_human', 'unknown')}")
    version = tuple(int(part) for part in about["redis_version"].split(".")[:2])
    if version < server.OLDEST:
        raise Failed(f"version {about['redis_version']}: the kit needs 6.2 or later")


# 2. Operations -----------------------------------------------------------------------


def check_basic_operations(client, prefix):
    print("\n🧪 Testing basic operations...")
    key, advice = f"{prefix}key", "Is this a Redis server, and may this user write to it?"
    client.set(key, "value")
    expect("GET after SET", client.get(key), "value", advice)
    print("✅ SET/GET operations work")
    expect("DEL of one key", client.delete(key), 1, advice)
    expect("GET after DEL", client.get(key), None, advice)
    print("✅ DELETE operations work")


def check_streams(client, prefix):
    """What the pipeline builds on: explicit IDs that only grow, and a group's pending entries."""
    print("\n🧪 Testing Redis Streams...")
    key, advice = f"{prefix}stream", "The kit needs the streams of Redis 6.2 or later."
    first = client.xadd(key, {"event": "one"})
    print(f"✅ Added message to stream: {first}")
    expect("XREAD", client.xread({key: "0"}), [[key, [(first, {"event": "one"})]]], advice)
    check_identifiers(client, key, advice)
    check_group(client, key, first, advice)
    print("✅ Stream read operations work")
    expect("DEL of the stream", client.delete(key), 1, advice)
    print("✅ Stream cleanup successful")


def check_identifiers(client, key, advice):
    gone = client.xadd(f"{key}:none", {"event": "x"}, id="1-1", nomkstream=True)
    expect("XADD NOMKSTREAM without a stream", gone, None, advice)
    try:
        client.xadd(key, {"event": "late"}, id="1-1")
    except redis.ResponseError:
        return
    raise Failed(f"XADD accepted an ID that is smaller than the last. {advice}")


def check_group(client, key, first, advice):
    client.xgroup_create(key, "readers", id="0")
    given = client.xreadgroup("readers", "ann", {key: ">"})
    expect("XREADGROUP", given, [[key, [(first, {"event": "one"})]]], advice)
    expect("pending entries", client.xpending(key, "readers")["pending"], 1, advice)
    expect("XACK", client.xack(key, "readers", first), 1, advice)
    expect("pending after XACK", client.xpending(key, "readers")["pending"], 0, advice)


# 3. Configuration --------------------------------------------------------------------

# directive: (what redis.conf says, what it means for the kit)
RELIED_ON = {
    "maxmemory": (str(2 * GIB), "the limit that MAXLEN stays far below"),
    "maxmemory-policy": ("allkeys-lru", "what goes if memory runs out all the same"),
    "appendonly": ("yes", "entries survive a restart of the server"),
    "appendfsync": ("everysec", "a power loss costs one second of the buffer"),
    "save": ("", "no snapshots beside the AOF"),
    "stream-node-max-bytes": ("4096", "small nodes, so that MAXLEN ~ trims closely"),
    "stream-node-max-entries": ("100", "the same, counted in entries"),
}


def check_configuration(client, is_ours):
    """Each directive that the kit relies on; a difference is a failure only on our own server."""
    print("\n🧪 Checking the configuration...")
    found = read_configuration(client)
    if found is None:
        print("⚠️  CONFIG GET is not allowed here: the configuration is taken as it is")
        return
    wrong = []
    for name, (wanted, meaning) in RELIED_ON.items():
        same = found.get(name) == wanted
        sign = "✅" if same else "❌" if is_ours else "⚠️ "
        unlike = "" if same else f" (redis.conf: {wanted or 'empty'})"
        print(f"{sign} {name} = {found.get(name) or 'empty'}{unlike}: {meaning}")
        wrong += [] if same else [name]
    if wrong and is_ours:
        raise Failed(
            f"redis.conf is not in force for {', '.join(wrong)}: restart our server with "
            f"{START} --stop and {START}"
        )


def read_configuration(client):
    try:
        return {name: client.config_get(name).get(name) for name in RELIED_ON}
    except redis.ResponseError:
        return None


# 4. Records --------------------------------------------------------------------------


def make_record(number):
    return {
        "id": f"{number:03d}",
        "user": f"user_{number % USERS + 1}",
        "category": f"category_{number % CATEGORIES + 1}",
        "value": number * 10,
    }


def headline(title):
    print(f"\n{'=' * 20} {title} {'=' * 20}")


def check_records(client, prefix):
    """Write, look, read, verify, delete, look again."""
    records = {f"record:{n:03d}": make_record(n) for n in range(1, RECORDS + 1)}
    keys = [f"{prefix}{name}" for name in records]
    write_records(client, keys, records)
    retrieved = retrieve_records(client, keys)
    expect("records read back", retrieved, list(records.values()), "Does another program use them?")
    verify_records(client, keys, records, retrieved)
    delete_records(client, keys)
    verify_deletion(client, keys)


def write_records(client, keys, records):
    headline("STEP 1: WRITE RECORDS")
    print(f"📝 Writing {RECORDS} records to Redis...")
    with client.pipeline(transaction=False) as pipe:
        for key, record in zip(keys, records.values(), strict=True):
            pipe.set(key, json.dumps(record))
        pipe.execute()
    print(f"✅ Successfully wrote {RECORDS} records")
    headline("STEP 2: CHECK RECORDS")
    there = client.exists(*keys)
    print(f"🔍 Records in Redis: {there}")
    expect("records after writing", there, RECORDS, "Is its memory full?")


def retrieve_records(client, keys):
    headline("STEP 3: RETRIEVE RECORDS")
    print("🔍 Starting retrieval job...")
    print(f"📊 Retrieving {RECORDS} records from Redis...")
    retrieved = [json.loads(text) for text in client.mget(keys) if text]
    print(f"✅ Successfully retrieved {len(retrieved)} records")
    return retrieved


def verify_records(client, keys, records, retrieved):
    headline("STEP 4: VERIFY RECORDS")
    print(f"📈 Retrieval Results:\n{'-' * 40}")
    print(f"Records retrieved: {len(retrieved)}")
    print(f"Records still in Redis: {client.exists(*keys)}")
    print("\n🔍 Verifying records still exist in Redis:")
    for key, name in list(zip(keys, records, strict=True))[:3]:
        print(f"  {name}: {'✅ Exists' if client.exists(key) else '❌ Missing'}")
    users = Counter(record["user"] for record in retrieved)
    categories = Counter(record["category"] for record in retrieved)
    (user, user_records), (category, category_records) = top(users), top(categories)
    print("\n📊 Retrieved Data Statistics:")
    print(f"  Unique users: {len(users)}")
    print(f"  Unique categories: {len(categories)}")
    print(f"  Most common user: {user} ({user_records} records)")
    print(f"  Most common category: {category} ({category_records} records)")


def top(counts):
    return counts.most_common(1)[0]


def delete_records(client, keys):
    headline("STEP 5: DELETE RECORDS")
    print(f"🗑️ Deleting {RECORDS} records from Redis...")
    deleted = client.delete(*keys)
    print(f"✅ Successfully deleted {deleted} records")
    expect("records deleted", deleted, RECORDS, "Does another program delete them?")


def verify_deletion(client, keys):
    headline("STEP 6: VERIFY DELETION")
    remaining = client.exists(*keys)
    print(f"🔍 Verifying deletion:\n{'-' * 30}")
    print(f"Records deleted: {RECORDS - remaining}")
    print(f"Records remaining in Redis: {remaining}")
    expect("records after deletion", remaining, 0, "Does another program write them?")
    print("✅ All checked keys have been successfully deleted")
    size = client.dbsize()
    print("\n📊 Final Redis State:")
    print(f"  Total keys in Redis: {size}")
    print(f"  Database empty: {'No' if size else 'Yes'}")


def show_summary(client):
    headline("FINAL SUMMARY")
    print("📊 Test Results:")
    for done in ("written", "retrieved", "deleted"):
        print(f"  Records {done}: {RECORDS}")
    print(f"  Final Redis size: {client.dbsize()}")
    print("  Test completed: ✅ Success")
    print("\n🎉 All Redis tests passed!")


# 5. For pytest -----------------------------------------------------------------------


def test_basic_operations(text_client):
    with own_keys(text_client) as prefix:
        check_basic_operations(text_client, prefix)


def test_streams(text_client):
    with own_keys(text_client) as prefix:
        check_streams(text_client, prefix)


def test_configuration(text_client):
    check_configuration(text_client, is_ours=True)


def test_records(text_client):
    with own_keys(text_client) as prefix:
        check_records(text_client, prefix)


# 6. For people -----------------------------------------------------------------------


def main():
    parser = settings.OneLineParser(
        description="Checks that a Redis server is there and does what the kit relies on.",
        epilog="Exit status: 0 all checks passed, 1 one failed, 2 no server was named.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--redis-url", metavar="URL", help=settings.DEFAULT_URL)
    url = settings.named_server(parser.parse_args().redis_url)
    if not url:
        parser.error(settings.NO_SERVER)
    print(f"🚀 Redis Server Test Script\n{'=' * 50}")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run_checks(url)
    except Failed as error:
        print(f"❌ {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\n🛑 Interrupted; the keys of this test are deleted", file=sys.stderr)
        return 130
    print("🔌 Redis connection closed")
    return 0


def run_checks(url):
    with named("connection", f"Is that the URL? Start a server with {START}"):
        client = connect(url)
        show_server(client)
    with client, named("keys of this test", ADVICE), own_keys(client) as prefix:
        with named("basic operations", ADVICE):
            check_basic_operations(client, prefix)
        with named("streams", ADVICE):
            check_streams(client, prefix)
        with named("configuration", ADVICE):
            check_configuration(client, is_ours=url == server.running())
        with named("records", ADVICE):
            check_records(client, prefix)
        show_summary(client)


@contextmanager
def named(check, advice):
    """An error that the client raises says which check it ended, and what to do."""
    try:
        yield
    except (redis.RedisError, OSError, ValueError, TypeError) as error:
        reason = "not a URL" if isinstance(error, ValueError | TypeError) else error
        raise Failed(
            f"{check}: expected an answer, found: {str(reason).rstrip('.')}. {advice}"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
