"""How a stage's failure reaches the others, and how long a run puts up with failures.

No stage dies alone: whoever fails rings the alarm of the pass, and every other stage ends
when it sees it. Which error starts the next pass, and from where, is decided by the script.
"""

import threading
import time


class Trouble(Exception):
    """This pass cannot go on; the next one starts behind what is on disk."""


class Refused(Exception):
    """A run that must not begin; the message says in one line what to do instead."""


def explain(error):
    """An error for people: ours speak for themselves, others need their name."""
    ours = isinstance(error, Trouble | Refused)
    return str(error) if ours else f"{type(error).__name__}: {error}"


class Alarm(threading.Event):
    """Rung by the first stage that fails; it ends the pass for all of them.

    `wake` is set with it, and also when the run is asked to stop: the source ends then.
    """

    def __init__(self):
        super().__init__()
        self.error, self.wake = None, threading.Event()

    def ring(self, error):
        self.error = self.error or error
        self.set()
        self.wake.set()


def attempt(alarm, work, *args):
    """Do a stage's work; if it fails, the pass ends for all."""
    try:
        work(*args)
    except Exception as error:
        alarm.ring(error)


def start(alarm, work, *args):
    """A stage in a thread of its own."""
    thread = threading.Thread(target=attempt, args=(alarm, work, *args), name=work.__qualname__)
    thread.start()
    return thread


class Patience:
    """Counts the seconds in which work waited and none was done, while the process was awake."""

    LONGEST_GAP_SECONDS = (
        11.0  # two time-outs of a socket; after a longer one we had been suspended
    )

    def __init__(self, give_up_seconds):
        self.limit_seconds, self.stuck_seconds, self.progress = give_up_seconds, 0.0, None
        self.looked = time.monotonic()

    def look(self, progress, work_waits=True):
        """Called again and again, with any value that changes when work is done."""
        now = time.monotonic()
        gap, self.looked = now - self.looked, now
        self.stuck_seconds += gap if gap <= self.LONGEST_GAP_SECONDS else 0.0
        if progress != self.progress or not work_waits:
            self.progress = progress
            self.forgive()

    def forgive(self):
        self.stuck_seconds = 0.0

    def exhausted(self):
        return 0 < self.limit_seconds <= self.stuck_seconds
