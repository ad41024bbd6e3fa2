"""The pages that people know, line for line, and how they are shown."""

import io
import math

import pytest

from redis_kit.telemetry import (
    Latencies,
    Screen,
    Snapshot,
    Tally,
    TelemetryCollector,
    final_page,
    live_line,
    live_page,
    verdict,
)

NOW = Snapshot(35.1, 1750, 1750, 1701, 0, {"app.bsky.feed.post": 1000, "app.bsky.feed.like": 750})

KNOWN_PAGE = """\
🚀 Jetstream Load Test - Live Telemetry
============================================================
⏱️  Elapsed: 35.1s
📊 Events Published: 1,750
📥 Events Ingested: 1,750
💾 Events Written: 1,701
❌ Errors: 0

📈 Rates (events/sec):
   Publish: 49.9
   Ingest: 49.9
   Write: 48.5

📋 Collection Breakdown:
   app.bsky.feed.post: 1,000
   app.bsky.feed.like: 750

🔄 Press Ctrl+C to stop..."""

KNOWN_END = """\
📊 FINAL STATISTICS
============================================================
Total Events Published: 1,750
Total Events Ingested: 1,750
Total Events Written: 1,701
Total Errors: 0
Average Publish Rate: 49.9 events/sec
Average Ingest Rate: 49.9 events/sec
Average Write Rate: 48.5 events/sec"""


def test_the_live_page_is_the_known_one():
    assert live_page(Snapshot(), NOW) == KNOWN_PAGE


def test_the_final_statistics_are_the_known_ones():
    assert final_page(NOW) == KNOWN_END


def test_live_rates_are_those_of_the_last_seconds():
    later = Snapshot(45.1, 1750, 1750, 1801)

    assert "published 1,750 (0.0/s)" in live_line(NOW, later)
    assert "written 1,801 (10.0/s)" in live_line(NOW, later)


def test_a_terminal_gets_the_page_redrawn_in_place():
    out = io.StringIO()
    screen = Screen(out, redraws=True)
    screen.show([], "one\ntwo")
    screen.show(["a message"], "three")

    assert out.getvalue() == "one\ntwo\n\x1b[2F\x1b[Ja message\nthree\n"


def test_a_log_gets_no_escape_sequences():
    out = io.StringIO()
    collector = TelemetryCollector(Tally(), out)
    collector.say("a message")
    collector.show(collector.page(collector.LINE_SECONDS))
    collector.show(collector.page(1))

    first, second = out.getvalue().splitlines()
    assert first == "a message" and second.startswith("⏱️  0.0s  published 0")
    assert "\x1b" not in out.getvalue()


def test_percentiles_are_within_a_percent():
    latencies = Latencies()
    for ms in range(1, 10_001):
        latencies.add(ms / 1000)

    figures = latencies.summary()
    for name, wanted in {"p50": 5000, "p99": 9900, "p99_9": 9990}.items():
        assert figures[name] == pytest.approx(wanted, rel=0.01)
    assert math.isclose(figures["max"], 10_000)


def test_no_events_have_no_latency():
    assert Latencies().summary() == {"p50": None, "p99": None, "p99_9": None, "max": None}


def test_an_event_that_is_done_twice_counts_once():
    tally = Tally()
    tally.begin("ingested", "c", 10)
    tally.reach("ingested", "c", 20)
    tally.begin("ingested", "c", 15)  # the next pass begins behind what is on disk
    tally.reach("ingested", "c", 18)
    tally.reach("ingested", "c", 21)

    assert tally.by_collection("ingested") == {"c": 11}


@pytest.mark.parametrize(
    "lost, duplicated, stopped_by, word",
    [(0, 0, None, "✅"), (1, 0, None, "❌"), (0, 1, None, "❌"), (0, 0, 2, "--seed 7")],
)
def test_the_verdict_says_what_the_audit_found(lost, duplicated, stopped_by, word):
    summary = {"stored": 9 - lost, "expected": 10, "lost": lost, "duplicated": duplicated}

    assert word in verdict(summary | {"seed": 7}, stopped_by)
