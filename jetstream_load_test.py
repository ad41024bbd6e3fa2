#!/usr/bin/env python3
"""Jetstream events through Redis Streams into Parquet files, each exactly once.

    JetstreamSimulator -> Queue -> DataIngestion -> Redis Streams -> DataWriter x 5 -> Parquet
           \\__________________________\\________________________________/
                                 TelemetryCollector

Read it from top to bottom: the sections follow an event.

    1. The source            JetstreamSimulator
    2. Into the streams      DataIngestion
    3. Out of the streams    DataWriter
    4. Passes                LoadTest
    5. The end               audit, summary, exit status

Three rules carry the promise; the code only keeps them.

    The events of a collection are numbered 1, 2, 3 ...; a stream ID is <millisecond>-<number>.
    One writer owns one stream and never skips a number.
    Disk first, acknowledgement second. The files are the log; Redis is a buffer and may forget.

Whoever notices trouble ends the pass, for all stages; the next pass starts behind what is on
disk. A crash, a flushed server, a lost reply and a full disk are one case.
"""

from redis_kit import preflight

if __name__ == "__main__":
    preflight.check()

import errno
import json
import os
import queue
import signal
import sys
import threading
import time
from itertools import islice

import redis

from redis_kit import streams, telemetry
from redis_kit.alarm import Alarm, Patience, Refused, Trouble, attempt, explain, start
from redis_kit.audit import audit
from redis_kit.events import COLLECTIONS, EPOCH_US, BadEvent, Firehose, read_event
from redis_kit.ids import BEFORE_FIRST
from redis_kit.owner import RENEW_SECONDS, Owner
from redis_kit.results import summarize, tree, write_summary
from redis_kit.settings import NO_SERVER, can_redraw, parse_settings, seams_from_environment
from redis_kit.sink import ParquetSink, by_day
from redis_kit.telemetry import Tally, TelemetryCollector

END = None
QUEUED_BURSTS = 20  # enough that ingestion never waits for the source, little to hold in memory
READ_AT_ONCE = 1000  # entries a reply: half a megabyte
MEMORY_SHARE = 0.8  # of maxmemory: the rest is for the server's own buffers, and for others
LONGEST_PAUSE_SECONDS = 5.0


# 1. The source -----------------------------------------------------------------------


class JetstreamSimulator:
    """Gives the events of a set behind what is on disk, each burst when its last event is due.

    began is when the run's first pass asked (monotonic) and how many events were stored by then.
    """

    def __init__(self, load_test, rate=50.0, mix="equal", seed=None):
        self.load_test, self.rate, self.mix, self.seed = load_test, rate, mix, seed
        self.began = None

    def run_simulation(self, events_queue, events_per_collection=1000, burst_size=50):
        """Put bursts of (when due, event bytes) on the queue until the set is complete."""
        if self.seed is None:
            self.seed = self.next_seed()
        firehose = Firehose(self.seed, self.rate, self.mix, events_per_collection)
        behind = self.load_test.begin_set(firehose)
        # Counted from the run's first pass: what has to wait for a second one shows as late.
        self.began = self.began or (time.monotonic(), sum(behind.values()))
        events = firehose.events(behind)
        while burst := list(islice(events, burst_size)):
            if not self.publish(events_queue, burst):
                return

    def next_seed(self):
        """Now, but never before what the directory holds."""
        end_ms = self.load_test.sink.newest_set()[1].millisecond
        return max(int(time.time()), end_ms // 1000 + 1) - EPOCH_US // 1_000_000

    def due(self, index):
        """When an event is due in this run, by the monotonic clock."""
        began, stored = self.began
        return began + max(0, index - stored) / self.rate if self.rate else time.monotonic()

    def publish(self, events_queue, burst):
        """Put the burst once its last event is due; False if the source is to end."""
        alarm, tally = self.load_test.alarm, self.load_test.tally
        if alarm.wake.wait(max(0.0, self.due(burst[-1][0]) - time.monotonic())):
            # After a stop, passes give again what was published before it, and only that.
            burst = [event for event in burst if event[0] < self.load_test.published_index]
        if alarm.is_set() or not burst:
            return False
        asked = time.monotonic()
        events_queue.put([(self.due(index), raw) for index, _, _, raw in burst])
        tally.source_waited_seconds += time.monotonic() - asked
        for _, collection, number, _ in burst:
            tally.reach("published", collection, number)
        self.load_test.published_index = max(self.load_test.published_index, burst[-1][0] + 1)
        return True


# 2. Into the streams -----------------------------------------------------------------


class DataIngestion:
    """Numbers the events of each collection and appends them to its stream, until END."""

    def __init__(self, client, events_queue, sink, tally, alarm, seam, stream_maxlen=100_000):
        self.client, self.events_queue, self.sink, self.tally = client, events_queue, sink, tally
        self.alarm, self.seam, self.maxlen = alarm, seam, stream_maxlen
        self.appended = {collection: sink.last_id(collection) for collection in COLLECTIONS}
        self.bytes_before_asking = 0
        self.hurry = threading.Event()  # memory is short: writers store what they hold

    def run(self):
        """Whatever happens, the queue is emptied: the source may be waiting for a place in it."""
        for burst in iter(self.events_queue.get, END):
            attempt(self.alarm, self.ingest, burst)

    def ingest(self, burst):
        """Number a burst, and append as much of it at a time as there is room for."""
        if self.alarm.is_set():
            return
        entries, given = [], dict(self.appended)
        for due, raw in burst:
            try:
                collection, time_us, _ = read_event(raw)
            except BadEvent as error:
                self.tally.add_dead_letter(self.sink.dead_letter(raw, str(error)))
                continue
            given[collection] = given[collection].following(time_us)
            entries.append((collection, given[collection], raw))
            self.tally.due[collection].append((given[collection].number, due))
        while entries:
            while not (fitting := self.room_for(entries)):
                self.wait(0.01)
            self.append(entries[:fitting])
            entries = entries[fitting:]

    def room_for(self, entries):
        """How many entries fit: half of MAXLEN is for what is on no disk yet, so that nothing
        of it is ever trimmed."""
        for fitting, (collection, stream_id, _) in enumerate(entries):
            if stream_id.number - self.sink.last_id(collection).number > self.maxlen // 2:
                return fitting
        return len(entries)

    def append(self, entries):
        """One round trip. Only writers make streams, and a refused ID is never explained away."""
        self.wait_for_memory(sum(len(raw) for _, _, raw in entries))
        streams.append(self.client, entries, self.maxlen)
        self.seam("after_append")
        for collection, stream_id, _ in entries:
            self.appended[collection] = stream_id
            self.tally.reach("ingested", collection, stream_id.number)

    def wait_for_memory(self, size):
        """Near maxmemory, trim what is on disk and wait: then neither eviction nor refusal bites.

        Asking costs a round trip, so it is done again when half of the distance may be used up.
        """
        needed = 2 * size
        self.bytes_before_asking -= needed
        if self.bytes_before_asking > 0:
            return
        while (left := streams.memory_left(self.client, MEMORY_SHARE)) is not None:
            if left >= needed:
                break
            streams.trim_stored(self.client, self.sink.last_id)
            if not any(map(self.unstored_count, COLLECTIONS)):
                break
            self.hurry.set()
            self.wait(0.05)
        self.hurry.clear()
        self.bytes_before_asking = min(left // 2, 2**24) if left is not None else 2**24

    def unstored_count(self, collection):
        return self.appended[collection].number - self.sink.last_id(collection).number

    def wait(self, seconds):
        if self.alarm.wait(seconds):
            raise Trouble("the pass ended while ingestion waited")


# 3. Out of the streams ---------------------------------------------------------------


class DataWriter:
    """The one consumer of one collection's group; writes its entries in batches.

    Invariant: self.batch continues the files of this collection, number by number.
    """

    def __init__(
        self, client, collection, sink, tally, alarm, seam, batch_size=100, flush_seconds=30.0
    ):
        self.client, self.collection, self.sink, self.tally = client, collection, sink, tally
        self.alarm, self.seam = alarm, seam
        self.batch_size, self.flush_seconds = batch_size, flush_seconds
        self.batch, self.batch_began = [], 0.0

    def settle(self):
        """Store what earlier passes left: our pending entries, then all else in the stream."""
        streams.ensure_group(self.client, self.collection, self.last_id())
        after = BEFORE_FIRST
        while entries := streams.read_pending(self.client, self.collection, after, READ_AT_ONCE):
            after = entries[-1][0]
            self.take(entries)
        while entries := self.read():
            self.take(entries)
        self.flush()
        if streams.last_generated_id(self.client, self.collection) > self.last_id():
            # A stranger's ID would block ours for ever.
            streams.delete(self.client, self.collection)
            streams.ensure_group(self.client, self.collection, self.last_id())

    def run(self, ingestion, ingested):
        """Follow the stream until ingestion is done and a read begun after that finds nothing."""
        hungry_since = None
        while not self.alarm.is_set():
            # Looked at before reading: "ingested" seen after an empty read could hide
            # entries that arrived in between.
            done, appended = ingested.is_set(), ingestion.appended[self.collection]
            entries = self.read(streams.BLOCK_MS)
            self.take(entries)
            if self.batch and (self.overdue() or ingestion.hurry.is_set()):
                self.flush()
            if done and not entries:
                return self.flush()
            hungry_since = self.hungry_since(hungry_since, entries, appended)

    def hungry_since(self, since, entries, appended):
        """Since when entries are there that no read finds; too long, and the pass ends.

        A read that the client gave up may have taken them: the server executes it all the same.
        """
        if entries or appended <= self.newest():
            return None
        since = since or time.monotonic()
        if time.monotonic() - since > streams.SOCKET_SECONDS:
            raise Trouble(f"{self.collection}: entries up to {appended} are there, none is found")
        return since

    def read(self, block_ms=None):
        count = min(self.batch_size, READ_AT_ONCE)
        entries = streams.read_new(self.client, self.collection, count, block_ms)
        if entries:
            self.seam("after_read")
        return entries

    def take(self, entries):
        """Keep the next number, settle what a file holds already; a number is never skipped."""
        for stream_id, fields in entries:
            event = self.own_event(stream_id, fields)
            if fields and event is None:
                self.set_aside(stream_id, fields)
            elif stream_id <= self.last_id():
                # An earlier pass died between the file and its XACK.
                streams.acknowledge(self.client, self.collection, [stream_id])
            elif event and stream_id.number == self.newest().number + 1:
                self.keep(stream_id, fields[streams.FIELD], event)
            else:
                self.rebuild(stream_id)

    def own_event(self, stream_id, fields):
        """The entry's event, if the entry's ID is one that ingestion would give it; else None."""
        try:
            collection, time_us, event = read_event(fields.get(streams.FIELD, b""))
        except BadEvent:
            return None
        newest = self.newest()
        expected_ms = newest.following(time_us).millisecond
        ahead = stream_id.number - newest.number
        if stream_id <= self.last_id():
            fits = True
        elif ahead == 1:
            fits = stream_id.millisecond == expected_ms
        else:  # behind a hole, where a clock may have stepped back
            fits = ahead > 1 and stream_id.millisecond >= expected_ms
        return event if fits and collection == self.collection else None

    def keep(self, stream_id, raw, event):
        if not self.batch:
            self.batch_began = time.monotonic()
        self.batch.append((stream_id, raw, event))
        if len(self.batch) >= self.batch_size:
            self.flush()

    def flush(self):
        """Disk first, acknowledgement second; never the other way round."""
        if not self.batch:
            return
        for part in by_day(self.batch):
            size = self.sink.write(self.collection, part)
            last_number = part[-1][0].number
            self.tally.wrote(self.sink.set_name, self.collection, last_number, len(part), size)
        stream_ids = [stream_id for stream_id, _, _ in self.batch]
        streams.acknowledge(self.client, self.collection, stream_ids)
        self.seam("after_ack")
        self.batch = []

    def set_aside(self, stream_id, fields):
        """Keep an entry that is not ours where it can be looked at; never as a row."""
        text = {key.decode("latin-1"): value.decode("latin-1") for key, value in fields.items()}
        entry = {"stream": self.collection, "id": str(stream_id), "fields": text}
        reason = "an entry that the kit did not append"
        self.tally.add_dead_letter(self.sink.dead_letter(json.dumps(entry).encode(), reason))
        streams.acknowledge(self.client, self.collection, [stream_id])

    def rebuild(self, stream_id):
        """Empty a stream that is not what was put there: the source fills it again."""
        streams.delete(self.client, self.collection)
        raise Trouble(f"{self.collection}: after {self.newest()} came {stream_id}")

    def last_id(self):
        return self.sink.last_id(self.collection)

    def newest(self):
        """The ID of the last event that is on disk or in the batch."""
        batch = self.batch  # once: the main thread asks, too
        return batch[-1][0] if batch else self.last_id()

    def overdue(self):
        return bool(self.batch) and time.monotonic() - self.batch_began >= self.flush_seconds

    def waits_for(self, appended):
        """Whether work lies before this writer, other than a batch that is filling."""
        return appended > self.newest() or self.overdue()


# 4. Passes ---------------------------------------------------------------------------


class LoadTest:
    """Passes over one data directory and one server, until everything is on disk.

    Invariant: every event of the set with an index below published_index was put on the queue,
    or was on disk before.
    """

    def __init__(self, settings, client, owner, sink, seam):
        self.settings, self.client, self.owner = settings, client, owner
        self.sink, self.seam = sink, seam
        self.tally, self.alarm, self.patience = Tally(), Alarm(), Patience(settings.give_up_seconds)
        self.telemetry = TelemetryCollector(self.tally, sys.stdout, can_redraw(sys.stdout))
        self.stop, self.stopped_by, self.renewed = threading.Event(), None, 0.0
        self.firehose, self.set_begins, self.published_index = None, {}, 0
        self.elapsed = 0.0

    def run(self, source):
        """Passes over source(events_queue), shown while they run."""
        finished = threading.Event()
        printing = threading.Thread(target=self.telemetry.run, args=(finished,))
        printing.start()
        try:
            self.run_passes(source)
        finally:
            self.elapsed = self.telemetry.elapsed()
            self.owner.release(self.client)
            finished.set()
            printing.join()

    def run_passes(self, source):
        """Until a pass leaves everything on disk, or there is nothing more to be hoped for."""
        pause, progress = 0.1, None
        while True:
            self.alarm = Alarm()
            if self.stop.is_set():
                self.alarm.wake.set()
            attempt(self.alarm, self.run_pass, source)
            if self.alarm.error is None:
                return
            self.refuse_or_count(self.alarm.error)
            gives_up = self.patience.exhausted()
            next_step = "giving up" if gives_up else "starting again from what is on disk"
            reason = explain(self.alarm.error)
            self.telemetry.say(f"⚠️  Pass {self.tally.passes} ended: {reason}; {next_step}")
            if gives_up or (self.stop.is_set() and self.published_is_stored()):
                return
            pause = (
                min(2 * pause, LONGEST_PAUSE_SECONDS) if progress == self.tally.progress() else 0.1
            )
            progress = self.tally.progress()
            # A stop cuts the pause short, once.
            (threading.Event() if self.stop.is_set() else self.stop).wait(pause)
            self.patience.look(progress)

    def run_pass(self, source):
        """One life of all stages, joined in the order in which events flow."""
        alarm = self.alarm
        self.tally.passes += 1
        self.sink.load()
        set_name = self.claim()
        self.sink.begin_set(set_name or self.tally.set_name or "unknown")
        writers = [self.writer(collection) for collection in COLLECTIONS]
        self.attend([start(alarm, writer.settle) for writer in writers])
        if alarm.is_set():
            return

        events_queue, ingested = queue.Queue(QUEUED_BURSTS), threading.Event()
        ingestion = self.ingestion(events_queue)

        def work_waits():
            return not events_queue.empty() or any(
                writer.waits_for(ingestion.appended[writer.collection]) for writer in writers
            )

        into = [start(alarm, feed, source, events_queue), start(alarm, ingestion.run)]
        out_of = [start(alarm, writer.run, ingestion, ingested) for writer in writers]
        self.attend(into, work_waits)
        ingested.set()
        self.attend(out_of, work_waits)
        if not alarm.is_set() and any(map(ingestion.unstored_count, COLLECTIONS)):
            raise Trouble("not everything that was appended is on disk")

    def claim(self):
        """Own the streams, also when they have filled the server's memory with what is stored."""
        try:
            return self.owner.claim(self.client)
        except redis.exceptions.OutOfMemoryError:
            if not self.owner.owns_streams(self.client):
                raise
            streams.trim_stored(self.client, self.sink.last_id)
            return self.owner.claim(self.client)

    def ingestion(self, events_queue):
        return DataIngestion(
            self.client, events_queue, self.sink, self.tally, self.alarm, self.seam,
            stream_maxlen=self.settings.stream_maxlen,
        )  # fmt: skip

    def writer(self, collection):
        return DataWriter(
            self.client, collection, self.sink, self.tally, self.alarm, self.seam,
            batch_size=self.settings.batch_size, flush_seconds=self.settings.flush_seconds,
        )  # fmt: skip

    def begin_set(self, firehose):
        """A source says which set it gives; returns how many of its events a collection has.

        By now, what an earlier set had left in the streams is on disk under that set's name.
        """
        name, end = self.sink.newest_set()
        if name != firehose.name and firehose.starts_us // 1000 <= end.millisecond:
            raise Refused(
                f"{self.settings.data_dir} holds events up to {end.time:%Y-%m-%d %H:%M:%S} UTC of "
                f"another set ({name}): choose another --data-dir for --seed {firehose.seed}"
            )
        self.sink.begin_set(firehose.name)
        self.owner.name_set(self.client, firehose.name)
        if self.firehose is None:
            self.settings.summary_path.unlink(missing_ok=True)  # it tells of another run
            self.telemetry.say(
                f"🌱 {len(firehose):,} events; after a crash --seed {firehose.seed} completes them"
            )
        self.firehose, self.tally.set_name = firehose, firehose.name
        self.tally.due.clear()
        behind = {}
        for collection in COLLECTIONS:
            last = self.sink.last_id(collection).number
            self.set_begins[collection] = self.sink.set_begins(collection)
            behind[collection] = last + 1 - self.set_begins[collection]
            self.tally.begin("published", collection, behind[collection])
            self.tally.begin("ingested", collection, last)
            # Appended without a reply, and settled by this pass.
            self.tally.reach("ingested", collection, last)
        return behind

    def attend(self, threads, work_waits=lambda: True):
        """Join threads; meanwhile stay the owner, and see that something is being done."""
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
                self.patience.look(self.tally.progress(), work_waits())
                if self.patience.exhausted():
                    self.alarm.ring(Trouble("nothing was done for --give-up-seconds"))
                elif time.monotonic() - self.renewed > RENEW_SECONDS:
                    self.renewed = time.monotonic()
                    attempt(self.alarm, self.owner.renew, self.client)

    def refuse_or_count(self, error):
        """Before the source has begun a run can still be refused; later, passes go on."""
        if self.firehose is None and isinstance(error, Refused):
            raise Refused(str(error)) from error
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            self.patience.forgive()
        self.tally.failures += 1

    def published_is_stored(self):
        published = self.tally.reached["published"]
        return all(
            self.sink.last_id(collection).number >= begins - 1 + published[collection]
            for collection, begins in self.set_begins.items()
        )

    def ask_to_stop(self, signal_number, _frame):
        """The first signal ends the source, and the rest drains; the second ends the process.

        Nothing is lost by the second either: what was not acknowledged is found again.
        """
        if self.stop.is_set():
            os._exit(128 + signal_number)
        self.stopped_by = signal_number
        self.stop.set()
        self.alarm.wake.set()
        self.telemetry.say("🛑 Stopping: what was published is stored; once more ends at once")


def feed(source, events_queue):
    """Whatever happens to the source, ingestion is told that nothing more comes."""
    try:
        source(events_queue)
    finally:
        events_queue.put(END)


# 5. The end --------------------------------------------------------------------------


def conclude(load_test, server):
    """Audit the files, show and save what was found; returns the exit status."""
    if load_test.firehose is None:
        print("❌ The run ended before its source could begin")
        return 128 + load_test.stopped_by if load_test.stopped_by else 3
    published_index = load_test.published_index if load_test.stopped_by else None
    settings = load_test.settings
    counts = audit(settings.data_dir, load_test.firehose, load_test.set_begins, published_index)
    summary = summarize(
        settings, server, load_test.firehose, load_test.tally, counts, load_test.elapsed
    )
    now = load_test.tally.snapshot(load_test.elapsed)
    verdict = telemetry.verdict(summary, load_test.stopped_by)
    pages = [
        f"\n{telemetry.final_page(now)}\n{telemetry.further_lines(summary, load_test.tally)}",
        telemetry.audit_page(counts),
        tree(settings.data_dir),
        f"{verdict}\n{write_summary(settings.summary_path, summary)}\n",
    ]
    telemetry.show("\n\n".join(pages), sys.stdout)
    if summary["lost"] or summary["duplicated"]:
        return 3
    return 128 + load_test.stopped_by if load_test.stopped_by else 0


def prepare(settings):
    """A LoadTest that owns its directory and has met its server; Refused if it cannot be."""
    if not settings.redis_url:
        raise Refused(NO_SERVER)
    if settings.summary_path.is_dir():
        raise Refused(f"--summary-json {settings.summary_path} is a folder: name a file")
    try:
        seam = seams_from_environment()
    except ValueError as error:
        raise Refused(str(error)) from None
    client, server = streams.meet(settings.redis_url)
    owner = Owner(settings.data_dir)
    owner.lock()
    sink = ParquetSink(settings.data_dir, seam)
    return LoadTest(settings, client, owner, sink, seam), server


def print_events(settings):
    """The events that the flags define, one a line; needs no server."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever reads may have seen enough
    seed = settings.seed if settings.seed is not None else int(time.time()) - EPOCH_US // 10**6
    firehose = Firehose(seed, settings.rate, settings.mix, settings.events_per_collection)
    for _, _, _, raw in firehose.events(dict.fromkeys(COLLECTIONS, 0)):
        sys.stdout.buffer.write(raw + b"\n")
    return 0


def main():
    settings = parse_settings(ABOUT, EPILOG)
    if settings.print_events:
        return print_events(settings)
    try:
        load_test, server = prepare(settings)
        signal.signal(signal.SIGINT, load_test.ask_to_stop)
        signal.signal(signal.SIGTERM, load_test.ask_to_stop)
        simulator = JetstreamSimulator(load_test, settings.rate, settings.mix, settings.seed)

        def source(events_queue):
            """Edit these two numbers, or give their flags."""
            simulator.run_simulation(
                events_queue,
                events_per_collection=settings.events_per_collection,
                burst_size=settings.burst_size,
            )

        load_test.run(source)
    except Refused as error:
        print(f"❌ {error}", file=sys.stderr)
        return 2
    return conclude(load_test, server)


ABOUT = "Sends Jetstream events through Redis Streams into Parquet files, each exactly once."
EPILOG = (
    "Exit status: 0 the whole set is stored exactly once; 2 a wrong setting; 3 incomplete; "
    "130 after Ctrl+C and 143 after SIGTERM, once what was published is stored."
)

if __name__ == "__main__":
    sys.exit(main())
