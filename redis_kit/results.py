"""What a run leaves: the summary as JSON, the tree of its files, and three rows read back.

    python -m redis_kit.results [the flags of jetstream_load_test.py]

shows a person what the run with these flags left. Reads only; needs no server.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import polars as pl

from redis_kit.events import COLLECTIONS, LIKE
from redis_kit.schemas import OWN
from redis_kit.server import safe_url
from redis_kit.settings import parse_settings
from redis_kit.sink import DAY, first_number, newest_file

SHOWN_FILES = 3


# 1. The summary ----------------------------------------------------------------------


def summarize(settings, server, firehose, tally, counts, elapsed_seconds):
    """A run in figures, as JSON holds them; counts as audit.audit gives them.

    Rates in events/s, latencies in ms, sizes in bytes; written, files and bytes at the top
    level are this run's, those of a collection the whole set's.
    """
    now, written = tally.snapshot(elapsed_seconds), tally.written()
    name, version = server
    return {
        "server": {"name": name, "version": version},
        "settings": plain(settings),
        "seed": firehose.seed,
        "expected": sum(count.expected for count in counts.values()),
        "stored": sum(count.stored for count in counts.values()),
        "lost": sum(count.lost for count in counts.values()),
        "duplicated": sum(count.duplicated for count in counts.values()),
        "published": now.published,
        "ingested": now.ingested,
        "written": now.written,
        "dead_letters": tally.dead_letters,
        "errors": now.errors,
        "passes": tally.passes,
        "files": sum(stored.files for stored in written.values()),
        "bytes": sum(stored.bytes for stored in written.values()),
        "elapsed_seconds": round(elapsed_seconds, 3),
        "rates": {stage: round(rate, 1) for stage, rate in now.rates().items()},
        "latency_ms": rounded(tally.all_latencies().summary()),
        "collections": {
            collection: {"written": written[collection].events if collection in written else 0}
            | dataclasses.asdict(count)
            for collection, count in counts.items()
        },
    }


def rounded(figures):
    return {name: value and round(value, 3) for name, value in figures.items()}


def plain(settings):
    """Settings as JSON takes them; a password in the URL is not for files."""
    fields = dataclasses.asdict(settings) | {"redis_url": safe_url(settings.redis_url)}
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in fields.items()
    }


def write_summary(path, summary):
    """Whole or not at all: a reader never sees half a summary. Returns what to tell people."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        return f"⚠️  No summary: {path}: {error.strerror}"
    return f"📄 Summary: {path}"


# 2. For people -----------------------------------------------------------------------


def tree(data_dir):
    """The folders of days with the first files of each collection."""
    lines = []
    for day in sorted(name for name in os.listdir(data_dir) if DAY.fullmatch(name)):
        lines.append(f"{data_dir}/{day}/")
        collections = [name for name in COLLECTIONS if Path(data_dir, day, name).is_dir()]
        for collection in collections:
            last = collection == collections[-1]
            lines.append(f"{'└──' if last else '├──'} {collection}/")
            names = shortened(in_order(os.listdir(Path(data_dir, day, collection))))
            for name in names:
                branch = "└──" if name == names[-1] else "├──"
                lines.append(f"{' ' if last else '│'}   {branch} {name}")
    return "\n".join(lines) or f"{data_dir}/ holds no events"


def in_order(names):
    return sorted(names, key=lambda name: (first_number(name) or 0, name))


def shortened(names):
    if len(names) <= SHOWN_FILES:
        return names
    return [*names[: SHOWN_FILES - 1], f"... {len(names) - SHOWN_FILES:,} more", names[-1]]


def collection_table(summary):
    """Rows, files, bytes, first and last event of each collection, as lines of text."""
    lines = [f"{'collection':<24}{'rows':>10}{'files':>8}{'bytes':>13}  first .. last ID"]
    for name, each in summary["collections"].items():
        lines.append(
            f"{name:<24}{each['stored']:>10,}{each['files']:>8,}{each['bytes']:>13,}  "
            f"{each['first'] or '-'} .. {each['last'] or '-'}"
        )
    return "\n".join(lines)


def sample_rows(data_dir):
    """The last three rows of the first collection that has any."""
    for collection in COLLECTIONS:
        path = newest_file(data_dir, collection)
        if path:
            own = next(iter(OWN[collection]))
            frame = pl.read_parquet(path, columns=["number", "created_at", own]).tail(3)
            with pl.Config(tbl_hide_dataframe_shape=True, fmt_str_lengths=40, tbl_width_chars=90):
                return f"Three rows of {path}:\n{frame}"
    return "No rows"


WHAT_NEXT = """
What next:
   {python} -c "import polars as pl; print(pl.read_parquet('{folder}'))"
   ./run_load_test.sh --rate 0 --mix firehose     as fast as it goes, mixed as in reality
   tests/run.sh                                   kill it at every seam, and more"""


def main():
    settings = parse_settings("Shows what the run with the same flags left.")
    try:
        summary = json.loads(settings.summary_path.read_text())
    except OSError:
        print(f"❌ No summary at {settings.summary_path}: was there a run with these flags?")
        return 1
    data_dir = settings.data_dir
    print(collection_table(summary))
    print(f"\nThis run: {summary['files']:,} files, {summary['bytes']:,} bytes\n")
    print(tree(data_dir), sample_rows(data_dir), sep="\n\n")
    print(f"\n📄 Summary: {settings.summary_path}")
    print(WHAT_NEXT.format(python=sys.executable, folder=data_dir / "*" / LIKE))
    return 0


if __name__ == "__main__":
    sys.exit(main())
