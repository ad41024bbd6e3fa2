"""Take out or spoil one line of the core at a time: do the tests notice?

    python tests/mutants.py [NAME ...]

Each mutant is a copy of the kit with one replacement; the tests named beside it run on it, on
one server, and at least one must fail. A mutant that survives is printed, and the status is 1.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPT, SINK, STREAMS = "jetstream_load_test.py", "redis_kit/sink.py", "redis_kit/streams.py"
OWNER, AUDIT, IDS = "redis_kit/owner.py", "redis_kit/audit.py", "redis_kit/ids.py"

# name: (file, what stands there, what the mutant has instead, tests that must notice)
MUTANTS = {
    "rule 1: the millisecond may fall": (
        IDS, "max(time_us // 1000, self.millisecond)", "time_us // 1000", "test_events.py test_stages.py"),
    "rule 1: numbers begin anew": (
        SCRIPT, "collection: sink.last_id(collection) for", "collection: BEFORE_FIRST for", "test_stages.py"),
    "rule 2: a number may be skipped": (
        SCRIPT, "stream_id.number == self.newest().number + 1", "stream_id.number > 0", "test_stages.py"),
    "rule 2: a known entry is taken again": (
        SCRIPT, "elif stream_id <= self.last_id():", "elif False:", "test_stages.py"),
    "rule 2: the stream with a hole stays": (
        SCRIPT, "        streams.delete(self.client, self.collection)\n        raise Trouble",
        "        raise Trouble", "test_stages.py"),
    "rule 2: a lost read is not noticed": (
        SCRIPT, "> streams.SOCKET_SECONDS", "> 1e9", "test_stages.py -k finds"),
    "rule 3: acknowledged before it is on disk": (
        SCRIPT, "        for part in by_day(self.batch):\n",
        "        streams.acknowledge(self.client, self.collection, [i for i, _, _ in self.batch])\n"
        "        for part in by_day(self.batch):\n", "test_stages.py"),
    "rule 3: contents are not fsynced": (
        SINK, "            sync_file(file.fileno())\n            return file.tell()",
        "            return file.tell()", "test_sink.py"),
    "rule 3: the folder is not fsynced": (
        SINK, "        sync_path(path.parent)\n        self.newest", "        self.newest", "test_sink.py"),
    "rule 3: new folders are not fsynced": (
        SINK, "    folder.mkdir(exist_ok=True)\n    sync_path(folder.parent)\n", "    folder.mkdir(exist_ok=True)\n", "test_sink.py"),
    "rule 3: what is found is believed at once": (
        SINK, "                sync_path(each)\n", "                pass\n", "test_sink.py"),
    "rule 3: a taken name is overwritten": (
        SINK, "os.link(temporary, path)", "os.replace(temporary, path)", "test_sink.py"),
    "rule 3: a leftover is opened for writing": (
        SINK, "            self.temporary(collection).unlink(missing_ok=True)\n", "", "test_crashes.py -k two_names"),
    "rule 4: midnight is ignored": (
        SINK, "key=lambda entry: entry[0].day", "key=lambda entry: 0", "test_sink.py"),
    "rule 4: a set begins where the files end": (
        SINK, "            return footer.set_begins\n", "            pass\n", "test_sink.py"),
    "rule 5: the group begins at $": (
        STREAMS, "id=str(after)", 'id="$"', "test_stages.py"),
    "rule 5: pending entries are not settled": (
        SCRIPT, "streams.read_pending(self.client, self.collection, after, READ_AT_ONCE)", "[]",
        "test_stages.py"),
    "rule 5: a stranger's ID stays": (
        SCRIPT, "> self.last_id():\n            # A stranger", "> self.last_id() and False:\n            # A stranger",
        "test_stages.py"),
    "rule 5: a failed stage is not noticed": (
        "redis_kit/alarm.py", "        alarm.ring(error)\n", "        pass\n", "test_stages.py"),
    "rule 6: ingestion makes streams": (
        STREAMS, "nomkstream=True", "nomkstream=False", "test_stages.py"),
    "rule 6: a refused append is ignored": (
        STREAMS, "not all(pipe.execute())", "not all(pipe.execute(raise_on_error=False))",
        "test_stages.py"),
    "rule 6: an entry a round trip": (
        STREAMS, "with client.pipeline(transaction=False) as pipe:", "if pipe := client:", "test_stages.py"),
    "rule 7: no room is waited for": (
        SCRIPT, "> self.maxlen // 2", "> 1e9", "test_stages.py"),
    "rule 7: no memory is waited for": (
        SCRIPT, "if left >= needed:", "if True:", "test_faults.py -k maxmemory"),
    "rule 8: the client retries": (
        STREAMS, "retry=Retry(NoBackoff(), 0)", "retry=Retry(NoBackoff(), 9)", "test_streams.py"),
    "rule 9: a stranger's entry is a row": (
        SCRIPT, "if fields and event is None:", "if False:", "test_stages.py"),
    "rule 9: another millisecond is ours, too": (
        SCRIPT, "fits = stream_id.millisecond == expected_ms", "fits = True", "test_stages.py"),
    "rule 9: a bad event ends the pass": (
        SCRIPT, "except BadEvent as error:\n                self", "except KeyError as error:\n                self",
        "test_stages.py"),
    "rule 10: an odd value spoils the batch": (
        "redis_kit/schemas.py", "[value if fits(value) else None for value in values]", "values", "test_sink.py"),
    "rule 11: missing events are not lost": (
        AUDIT, "            count.lost += 1\n", "            pass\n", "test_audit.py"),
    "rule 11: repeated rows are not counted": (
        AUDIT, "cursor.count.duplicated += 1", "pass", "test_audit.py"),
    "rule 11: rows are not compared": (
        AUDIT, "    return is_equal\n", "    return True\n", "test_contract.py -k not_the_event"),
    "rule 11: a missing first file is a moved day": (
        AUDIT, "stream_id.day < cursor.oldest_day", "True", "test_audit.py"),
    "rule 12: the directory is not locked": (
        OWNER, "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB", "test_faults.py -k second_run"),
    "rule 12: a busy server is not respected": (
        OWNER, "holder and holder != self.id", "False", "test_faults.py -k second_directory"),
    "rule 12: unsettled entries are dropped": (
        OWNER, "if owner and any(", "if False and any(", "test_faults.py -k second_directory"),
    "rule 12: left-overs get the new set's name": (
        SCRIPT, 'set_name or self.tally.set_name or "unknown"', '"unknown"', "test_crashes.py -k earlier"),
    "a stop does not end the source": (
        SCRIPT, "burst = [event for event in burst if event[0] < self.load_test.published_index]", "pass",
        "test_crashes.py -k signal_drains"),
    "the second signal is ignored": (
        SCRIPT, "            os._exit(128 + signal_number)\n", "            return\n", "test_crashes.py -k second_signal"),
    "nothing is flushed at the end": (
        SCRIPT, "return self.flush()", "return", "test_stages.py -k nothing_is_left"),
    "a batch waits for ever": (
        SCRIPT, "self.overdue() or", "False or", "test_stages.py -k after_a_while"),
    "an older set is accepted": (
        SCRIPT, "firehose.starts_us // 1000 <= end.millisecond", "False", "test_contract.py -k older"),
    "the exit status hides a loss": (
        SCRIPT, 'if summary["lost"] or summary["duplicated"]:\n        return 3', "if False:\n        return 3",
        "test_contract.py -k missing_file"),
    "a run never gives up": (
        "redis_kit/alarm.py", "return 0 < self.limit_seconds <= self.stuck_seconds", "return False", "test_faults.py -k never_comes_back"),
}  # fmt: skip


def survives(file, old, new, tests):
    """Whether the tests pass although the line is spoilt; a test that hangs notices, too."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "kit")
        ignored = shutil.ignore_patterns(".git", ".venv", "data", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, copy, ignore=ignored)
        (copy / "data").mkdir()
        text = (copy / file).read_text()
        assert text.count(old) == 1, f"{file} has {text.count(old)} times {old!r}"
        (copy / file).write_text(text.replace(old, new))
        files, _, chosen = tests.partition(" -k ")
        command = [sys.executable, "-m", "pytest", "-qx", "--servers", "1"]
        command += [f"tests/{name}" for name in files.split()]
        command += ["-k", chosen.strip("'")] if chosen else []
        try:
            run = subprocess.run(command, cwd=copy, capture_output=True, timeout=120)
        except subprocess.TimeoutExpired:
            return False
        assert run.returncode in (0, 1), f"pytest ended with {run.returncode}: {run.stdout}"
        return run.returncode == 0


def main():
    chosen = [name for name in MUTANTS if not sys.argv[1:] or any(a in name for a in sys.argv[1:])]
    print("First the tests on the kit as it is", flush=True)
    for tests in sorted({MUTANTS[name][3] for name in chosen}):
        assert survives(SCRIPT, "# 1. The source", "# 1. The source", tests), f"{tests} fail anyway"
    survivors = []
    for name in chosen:
        lives = survives(*MUTANTS[name])
        print(f"{'❌ survives' if lives else '✅ caught'}  {name}", flush=True)
        survivors += [name] if lives else []
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants were caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
