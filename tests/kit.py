"""Runs jetstream_load_test.py as a person would, and looks at what it left.

What was stored is checked without the kit's own audit: the rows come from plain polars.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import polars as pl

from redis_kit.events import COLLECTIONS, Firehose
from redis_kit.settings import parse_settings

ROOT = Path(__file__).resolve().parent.parent
SEED = "60000000"
SMALL = ("--rate", "0", "--events-per-collection", "300", "--seed", SEED)


class Run:
    """A finished run: status, what it printed, and its summary if it wrote one."""

    def __init__(self, status, out, err, summary_path):
        self.status, self.out, self.err = status, out, err
        self.summary = json.loads(summary_path.read_text()) if summary_path.exists() else None

    def __repr__(self):
        return f"status {self.status}\n{self.out}\n{self.err}"


class Kit:
    """One data directory on one server."""

    def __init__(self, url, data_dir, script=ROOT / "jetstream_load_test.py"):
        self.url, self.data_dir, self.script = url, data_dir, script
        self.process = None

    def start(self, *flags, **environment):
        """A run in the background; crash="after_read:2" and slow="..." set its seams."""
        seams = {f"KIT_{name.upper()}": value for name, value in environment.items()}
        without = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
        (self.data_dir / "summary.json").unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, self.script, "--redis-url", self.url,
             "--data-dir", self.data_dir, *flags],
            env=without | seams, cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        return self.process

    def end(self):
        """Nothing of a test that failed half-way is left to disturb the next one."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def finish(self, process, seconds=60):
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"stuck for {seconds} s:\n{out}\n{err}") from None
        return Run(process.returncode, out, err, self.data_dir / "summary.json")

    def run(self, *flags, seconds=60, **environment):
        return self.finish(self.start(*flags, **environment), seconds)

    def run_beside(self, *flags):
        """A run that is to be refused; leaves the summary of the other one alone."""
        return subprocess.run(
            [sys.executable, self.script, "--redis-url", self.url,
             "--data-dir", self.data_dir, *flags],
            cwd=ROOT, text=True, capture_output=True, timeout=30,
        )  # fmt: skip

    def files(self):
        return sorted(self.data_dir.glob("*/*/*.parquet"), key=in_order)

    def rows(self):
        """(collection, number, event) of every row, in the order of files."""
        rows = []
        for path in self.files():
            frame = pl.read_parquet(path)
            rows += zip(frame["collection"], frame["number"], frame["event"], strict=True)
        return rows

    def wait_for_files(self, count, seconds=30):
        deadline = time.monotonic() + seconds
        while len(self.files()) < count:
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.process.kill()
                raise AssertionError(f"only {len(self.files())} files: {self.finish(self.process)}")
            time.sleep(0.02)

    def assert_exactly_once(self, *flags):
        """Each event that the flags define is one row, in order, and there is no other row."""
        settings = parse_settings("", argv=list(flags))
        firehose = Firehose(
            settings.seed, settings.rate, settings.mix, settings.events_per_collection
        )
        wanted = [
            (collection, number, raw.decode())
            for _, collection, number, raw in firehose.events(dict.fromkeys(COLLECTIONS, 0))
        ]
        rows = self.rows()
        assert len(rows) == len(wanted)
        assert sorted(rows) == sorted(wanted)


def in_order(path):
    """A file's collection and first number."""
    return path.parent.name, int(re.search(r"_(\d+)\.parquet$", path.name)[1])
