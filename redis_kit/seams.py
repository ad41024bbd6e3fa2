"""Named places where a test may end the process or slow it down.

    KIT_CRASH=after_rename:3   the third passage of the seam, over all threads, ends the
                               process as kill -9 would, with status 137
    KIT_SLOW=before_rename:0.2 each passage of the seam takes 0.2 s longer

A seam stands between two steps whose order carries the promise. Without the two variables
a passage does nothing.
"""

import os
import threading
import time

SEAMS = ("after_append", "after_read", "before_rename", "after_rename", "after_ack")


class Seams:
    """Call it with a seam's name at each passage; ValueError where a variable makes no sense."""

    def __init__(self, crash="", slow=""):
        self.crash_at, crash_passage = self.parse("KIT_CRASH", crash)
        self.slow_at, self.slow_seconds = self.parse("KIT_SLOW", slow)
        if crash_passage != int(crash_passage):
            raise ValueError(f"KIT_CRASH={crash}: the passage must be a whole number")
        self.passages_left = int(crash_passage)
        self.lock = threading.Lock()

    @staticmethod
    def parse(variable, text):
        """'after_read:2' -> ('after_read', 2.0)"""
        if not text:
            return None, 0.0
        name, _, amount = text.partition(":")
        if name not in SEAMS:
            raise ValueError(f"{variable}={text}: no such seam; there are {', '.join(SEAMS)}")
        try:
            number = float(amount)
        except ValueError:
            number = 0.0
        if not 0 < number < 1e6:
            raise ValueError(f"{variable}={text}: after the colon belongs a number above 0")
        return name, number

    def __call__(self, name):
        if name == self.slow_at:
            time.sleep(self.slow_seconds)
        if name == self.crash_at:
            with self.lock:
                self.passages_left -= 1
                if self.passages_left == 0:
                    os._exit(137)
