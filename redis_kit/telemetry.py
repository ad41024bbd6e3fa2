"""Counters of a run, and the pages that show them. Threads count; one thread prints.

A page is a pure function of a Snapshot: the same figures give the same text.
"""

import contextlib
import math
import queue
import threading
import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field

RULE = "=" * 60


# 1. Counting -------------------------------------------------------------------------


class Latencies:
    """A histogram of milliseconds in steps of 1 %: percentiles without keeping each value."""

    STEP = math.log(1.01)

    def __init__(self):
        self.counts, self.longest = Counter(), 0.0

    def add(self, seconds):
        ms = max(seconds * 1000, 0.001)
        self.counts[round(math.log(ms) / self.STEP)] += 1
        self.longest = max(self.longest, ms)

    def percentile(self, share):
        """The latency in ms that `share` of the events stay within; None without events."""
        rank = math.ceil(share * self.counts.total())
        for step in sorted(self.counts):
            rank -= self.counts[step]
            if rank <= 0:
                return min(math.exp(step * self.STEP), self.longest)
        return None

    def summary(self):
        names = {"p50": 0.5, "p99": 0.99, "p99_9": 0.999}
        figures = {name: self.percentile(share) for name, share in names.items()}
        return figures | {"max": self.longest if self.counts else None}


@dataclass
class Stored:
    """What a run wrote of one collection of one set."""

    events: int = 0
    files: int = 0
    bytes: int = 0


class Tally:
    """How far each stage is, each event counted once however many passes it takes.

    Every number is moved by one thread only, but for those that add_error guards.
    """

    def __init__(self):
        self.began, self.reached = defaultdict(dict), defaultdict(dict)
        self.stored = {}  # (name of the set, collection) -> Stored
        self.set_name = None
        self.due = defaultdict(deque)  # collection -> (number, when due), appended, not on disk
        # A histogram a collection: each has its own writer thread.
        self.latencies = defaultdict(Latencies)
        self.passes = self.failures = self.dead_letters = 0
        self.source_waited_seconds = 0.0
        self.lock = threading.Lock()

    def begin(self, stage, collection, number):
        """Where a stage stands when the run begins; later passes change nothing.

        "published" counts a collection's events in the set, "ingested" its numbers.
        """
        self.began[stage].setdefault(collection, number)
        self.reached[stage].setdefault(collection, number)

    def reach(self, stage, collection, number):
        """A stage has done everything of a collection up to this number."""
        if number > self.reached[stage][collection]:
            self.reached[stage][collection] = number

    def by_collection(self, stage):
        began, reached = self.began[stage], self.reached[stage].copy()
        return {collection: reached[collection] - began[collection] for collection in reached}

    def wrote(self, set_name, collection, last_number, events, size):
        """Events up to last_number are durable now, in one more file of size bytes."""
        stored = self.stored.setdefault((set_name, collection), Stored())
        stored.events += events
        stored.files += 1
        stored.bytes += size
        due, now = self.due[collection], time.monotonic()
        while due and due[0][0] <= last_number:
            self.latencies[collection].add(now - due.popleft()[1])

    def written(self):
        """Stored per collection of the run's own set."""
        found = self.stored.copy().items()
        return {collection: each for (name, collection), each in found if name == self.set_name}

    def settled(self):
        """Events that an earlier set had left in the streams and this run wrote."""
        found = self.stored.copy().items()
        return sum(each.events for (name, _), each in found if name != self.set_name)

    def add_dead_letter(self, is_new):
        with self.lock:
            self.dead_letters += is_new

    def progress(self):
        """A value that changes whenever anything comes further."""
        files = [each.files for each in self.stored.copy().values()]
        reached = [sum(self.reached[stage].values()) for stage in ("published", "ingested")]
        return (*reached, sum(files))

    def all_latencies(self):
        merged = Latencies()
        for each in self.latencies.values():
            merged.counts += each.counts
            merged.longest = max(merged.longest, each.longest)
        return merged

    def snapshot(self, elapsed):
        published = self.by_collection("published")
        written = self.written()
        return Snapshot(
            elapsed=elapsed,
            published=sum(published.values()),
            ingested=sum(self.by_collection("ingested").values()),
            written=sum(stored.events for stored in written.values()),
            errors=self.failures + self.dead_letters,
            by_collection={name: count for name, count in published.items() if count},
        )


@dataclass(frozen=True)
class Snapshot:
    """The counters at one moment; elapsed in seconds since the run began."""

    elapsed: float = 0.0
    published: int = 0
    ingested: int = 0
    written: int = 0
    errors: int = 0
    by_collection: dict = field(default_factory=dict)

    def rates(self, before=None):
        """Events/s of each stage since an earlier snapshot, or since the beginning."""
        before = before or Snapshot()
        seconds = max(self.elapsed - before.elapsed, 1e-9)
        return {
            "publish": (self.published - before.published) / seconds,
            "ingest": (self.ingested - before.ingested) / seconds,
            "write": (self.written - before.written) / seconds,
        }


# 2. Showing --------------------------------------------------------------------------


def live_page(before, now):
    """The page of a running load test; rates are those since `before`."""
    rates = now.rates(before)
    lines = [
        "🚀 Jetstream Load Test - Live Telemetry",
        RULE,
        f"⏱️  Elapsed: {now.elapsed:.1f}s",
        f"📊 Events Published: {now.published:,}",
        f"📥 Events Ingested: {now.ingested:,}",
        f"💾 Events Written: {now.written:,}",
        f"❌ Errors: {now.errors:,}",
        "",
        "📈 Rates (events/sec):",
        f"   Publish: {rates['publish']:.1f}",
        f"   Ingest: {rates['ingest']:.1f}",
        f"   Write: {rates['write']:.1f}",
        "",
        "📋 Collection Breakdown:",
        *(f"   {name}: {count:,}" for name, count in now.by_collection.items()),
        "",
        "🔄 Press Ctrl+C to stop...",
    ]
    return "\n".join(lines)


def live_line(before, now):
    """The same for a log: one line."""
    rates = now.rates(before)
    return (
        f"⏱️  {now.elapsed:.1f}s  published {now.published:,} ({rates['publish']:.1f}/s)  "
        f"ingested {now.ingested:,} ({rates['ingest']:.1f}/s)  "
        f"written {now.written:,} ({rates['write']:.1f}/s)  errors {now.errors:,}"
    )


def final_page(now):
    rates = now.rates()
    return "\n".join(
        [
            "📊 FINAL STATISTICS",
            RULE,
            f"Total Events Published: {now.published:,}",
            f"Total Events Ingested: {now.ingested:,}",
            f"Total Events Written: {now.written:,}",
            f"Total Errors: {now.errors:,}",
            f"Average Publish Rate: {rates['publish']:.1f} events/sec",
            f"Average Ingest Rate: {rates['ingest']:.1f} events/sec",
            f"Average Write Rate: {rates['write']:.1f} events/sec",
        ]
    )


def further_lines(summary, tally):
    """What stands below the known statistics; summary as results.summarize makes it."""
    latency = summary["latency_ms"]
    figures = (f"{name.replace('_', '.')} {value:,.1f}" for name, value in latency.items() if value)
    lines = [
        "Latency from due to durable (ms): " + (", ".join(figures) or "nothing was written"),
        f"Files: {summary['files']:,}, {summary['bytes']:,} bytes, passes: {summary['passes']}",
    ]
    if tally.source_waited_seconds >= 0.1:
        lines.append(f"The source waited for room: {tally.source_waited_seconds:.1f}s")
    if tally.settled():
        lines.append(f"Settled for an earlier set: {tally.settled():,} events it had left in Redis")
    return "\n".join(lines)


def audit_page(counts):
    """The audit, a line per collection; counts as audit.audit gives them."""
    names = ["expected", "stored", "lost", "duplicated", "files"]
    width = max(len(name) for name in counts)
    lines = ["🔎 Audit (the Parquet files read back):"]
    lines += [" " * (width + 3) + "".join(f"{name:>12}" for name in names)]
    for collection, count in counts.items():
        figures = "".join(f"{getattr(count, name):>12,}" for name in names)
        lines.append(f"   {collection:<{width}}{figures}")
    return "\n".join(lines)


def verdict(summary, stopped_by):
    """The last line: is each event one row?"""
    figures = (
        f"{summary['stored']:,} of {summary['expected']:,} events stored, "
        f"lost {summary['lost']:,}, duplicated {summary['duplicated']:,}"
    )
    if summary["lost"] or summary["duplicated"]:
        return f"❌ Not exactly once: {figures}. Run again with --seed {summary['seed']}"
    if stopped_by and summary["stored"] < summary["expected"]:
        return (
            f"🛑 Interrupted: {figures}. The same flags with --seed {summary['seed']} complete it"
        )
    return f"✅ Exactly once: {figures}"


# 3. The thread that prints -----------------------------------------------------------


def show(text, out):
    """Print where that is possible: `| head` or a log on a full disk must not end a run."""
    with contextlib.suppress(OSError):
        out.write(text)
        out.flush()


class Screen:
    """Prints lines and one page that is redrawn in place; only the telemetry thread calls it."""

    def __init__(self, out, redraws):
        self.out, self.redraws, self.height = out, redraws, 0

    def show(self, lines, page=""):
        """Lines that stay, then the page, which the next call replaces."""
        erase = f"\x1b[{self.height}F\x1b[J" if self.height else ""
        text = "".join(line + "\n" for line in [*lines, page] if line)
        self.height = page.count("\n") + 1 if page and self.redraws else 0
        if erase + text:
            show(erase + text, self.out)


class TelemetryCollector:
    """Shows the counters: a page redrawn every second on a terminal, else a line now and then."""

    LINE_SECONDS, RATE_SECONDS = 5, 10

    def __init__(self, tally, out, redraws=False):
        self.tally, self.screen = tally, Screen(out, redraws)
        self.messages, self.history = queue.SimpleQueue(), deque([Snapshot()])
        self.began = time.monotonic()

    def elapsed(self):
        return time.monotonic() - self.began

    def say(self, line):
        """A line for the reader; may be called from any thread and from a signal handler."""
        self.messages.put(line)

    def run(self, finished):
        """Show something every second until `finished` is set."""
        ticks = 0
        while not finished.wait(1):
            ticks += 1
            self.show(self.page(ticks))
        self.show(self.page(self.LINE_SECONDS) if self.screen.redraws else "")

    def page(self, ticks):
        now = self.tally.snapshot(self.elapsed())
        while now.elapsed - self.history[0].elapsed > self.RATE_SECONDS and len(self.history) > 1:
            self.history.popleft()
        before = self.history[0]
        self.history.append(now)
        if self.screen.redraws:
            return live_page(before, now)
        return live_line(before, now) if ticks % self.LINE_SECONDS == 0 else ""

    def show(self, page):
        lines = []
        while not self.messages.empty():
            lines.append(self.messages.get())
        self.screen.show(lines, page)
