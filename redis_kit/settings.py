"""Every number that a reader may change: one frozen dataclass, each field a flag.

--events-per-collection is the field events_per_collection, and so on. This is the only
file that looks at the environment. A value that makes no sense ends the program with
status 2 and one line on stderr.
"""

import argparse
import dataclasses
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from redis_kit import server
from redis_kit.seams import Seams

NO_SERVER = (
    "no Redis server was named: start one with ./start_local.sh, "
    "or give --redis-url redis://HOST:PORT/0 (or set REDIS_URL)"
)
# A set that begins before 2051 ends before 2100, where events.LATEST_US is.
LONGEST_SECONDS = 40 * 365 * 86400
DEFAULT_URL = (
    "redis://[USER:PASSWORD@]HOST:PORT/DB or rediss://... "
    "(default: $REDIS_URL, else the server that start_local.sh left running)"
)


def option(default, group, text, least=None, most=math.inf, choices=None, kind=None):
    """A field of Settings; its flag, its help and its bounds follow from this."""
    kind = kind or type(default)
    metadata = {"group": group, "text": text, "bounds": (least, most), "kind": kind}
    return dataclasses.field(default=default, metadata=metadata | {"choices": choices})


SOURCE, PIPELINE, OUTPUT = "source", "pipeline", "output"


@dataclass(frozen=True)
class Settings:
    """What a run was asked to do; Settings() is the demonstration of about 100 s."""

    events_per_collection: int = option(
        1000, SOURCE, "events of each of 5 collections", least=0, most=10**9
    )
    burst_size: int = option(50, SOURCE, "events that go out together", least=1, most=10**6)
    rate: float = option(50.0, SOURCE, "events/s in all; 0 = as fast as it can", least=0)
    mix: str = option(
        "equal",
        SOURCE,
        "equal: each collection in turn; firehose: the same total, mixed as on the real network",
        choices=("equal", "firehose"),
    )
    seed: int | None = option(
        None,
        SOURCE,
        "second at which the simulated firehose starts, counted from 2025-01-01 UTC; the same "
        "flags with the same seed complete the same set of events (default: now)",
        least=0,
        most=800_000_000,
        kind=int,
    )

    redis_url: str | None = option(
        None,
        PIPELINE,
        DEFAULT_URL,
        kind=str,
    )
    data_dir: Path = option(Path("data"), PIPELINE, "where the Parquet files go", kind=Path)
    batch_size: int = option(100, PIPELINE, "events per Parquet file", least=1, most=10**6)
    flush_seconds: float = option(
        30.0, PIPELINE, "a batch that is not full is written after so long", least=0
    )
    stream_maxlen: int = option(
        100_000,
        PIPELINE,
        "entries kept in a stream; at least twice --batch-size",
        least=2,
        most=10**12,
    )
    give_up_seconds: float = option(
        60.0, PIPELINE, "end with status 3 after so long without progress; 0 = never", least=0
    )

    summary_json: Path | None = option(
        None, OUTPUT, "where the summary goes (default: summary.json in --data-dir)", kind=Path
    )
    print_events: bool = option(
        False, OUTPUT, "print the events that these flags define, as JSON lines, and end"
    )

    @property
    def summary_path(self):
        return self.summary_json or self.data_dir / "summary.json"


class OneLineParser(argparse.ArgumentParser):
    """argparse that says what is wrong in one line and ends with status 2."""

    def error(self, message):
        message = re.sub(r"://[^@\s]*@", "://***@", message)  # a URL in the wrong place
        self.exit(2, f"❌ {message} (--help shows what is possible)\n")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds '(default: ...)' where the text does not say it and there is one to say."""

    def _get_help_string(self, action):
        silent = action.default in (None, False, argparse.SUPPRESS) or "default:" in action.help
        return action.help if silent else super()._get_help_string(action)


def build_parser(description, epilog=None):
    parser = OneLineParser(
        description=description, epilog=epilog, allow_abbrev=False, formatter_class=HelpFormatter
    )
    groups = {name: parser.add_argument_group(name) for name in (SOURCE, PIPELINE, OUTPUT)}
    for field in dataclasses.fields(Settings):
        add_flag(groups[field.metadata["group"]], field)
    return parser


def add_flag(group, field):
    flag, about = "--" + field.name.replace("_", "-"), field.metadata
    if about["kind"] is bool:
        group.add_argument(flag, action="store_true", help=about["text"])
        return
    metavar = {int: "N", float: "X", str: "URL", Path: "PATH"}[about["kind"]]
    group.add_argument(
        flag,
        type=within(about["kind"], *about["bounds"]),
        default=field.default,
        choices=about["choices"],
        metavar=None if about["choices"] else metavar,
        help=about["text"],
    )


def within(kind, least, most):
    """A converter for argparse that refuses what is no such number or out of bounds."""
    if least is None:
        return kind

    def convert(text):
        try:
            value = kind(text)
            in_bounds = math.isfinite(value) and least <= value <= most
        except (ValueError, OverflowError):
            in_bounds = False
        if not in_bounds:
            limits = f"of at least {least}" + (f", at most {most}" if most < math.inf else "")
            noun = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is not a {noun} {limits}")
        return value

    return convert


def parse_settings(description, epilog=None, argv=None):
    """Settings from the command line and the environment; ends the program if they are wrong.

    redis_url stays None where no server is named: a run needs one, --print-events does not.
    """
    parser = build_parser(description, epilog)
    settings = Settings(**vars(parser.parse_args(argv)))
    if settings.stream_maxlen < 2 * settings.batch_size:
        parser.error(
            f"--stream-maxlen {settings.stream_maxlen} is less than twice "
            f"--batch-size {settings.batch_size}: a batch could be trimmed before it is full"
        )
    if settings.rate and 5 * settings.events_per_collection / settings.rate > LONGEST_SECONDS:
        parser.error(f"--rate {settings.rate:g} would take more than 40 years")
    return dataclasses.replace(settings, redis_url=named_server(settings.redis_url))


def named_server(redis_url=None):
    """The URL given, else $REDIS_URL, else the server that start_local.sh left, else None."""
    return redis_url or os.environ.get("REDIS_URL") or server.running()


def can_redraw(out):
    """Whether a page can be drawn again in place: on a terminal that is more than a typewriter."""
    return out.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def seams_from_environment():
    """The seams as KIT_CRASH and KIT_SLOW ask for them; ValueError if they make no sense."""
    return Seams(os.environ.get("KIT_CRASH", ""), os.environ.get("KIT_SLOW", ""))
