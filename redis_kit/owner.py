"""Rule 12: one run a data directory, and one data directory a set of streams.

    data/.kit          the directory's id; locked while a run lasts, also against its own crash
    jetstream:owner    the id, a space, and the name of the set whose entries are in the streams
    jetstream:busy     the id of the run that uses them now; expires 10 s after its death

Refuses to empty streams that hold entries which are on no disk yet and are not ours.
"""

import fcntl
import uuid
from pathlib import Path

import redis

from redis_kit import streams
from redis_kit.alarm import Refused
from redis_kit.events import COLLECTIONS
from redis_kit.sink import make_folder, sync_file, sync_path

OWNER_KEY, BUSY_KEY = streams.PREFIX + "owner", streams.PREFIX + "busy"
BUSY_SECONDS, RENEW_SECONDS = 10, 3


class Owner:
    """The right to write to one data directory, and to the streams of one server."""

    def __init__(self, data_dir):
        self.data_dir, self.file, self.id = Path(data_dir), None, None

    def lock(self):
        """Make the directory if it is missing, and hold it; Refused if that cannot be."""
        try:
            if not self.data_dir.is_dir():
                make_folder(self.data_dir.absolute())
            # Stays open: closing it would give up the lock.
            self.file = open(self.data_dir / ".kit", "a+", encoding="ascii")  # noqa: SIM115
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.id = self.read_or_make_id()
        except BlockingIOError:
            raise Refused(
                f"another run is writing to {self.data_dir}: wait for it, "
                "or choose another --data-dir"
            ) from None
        except OSError as error:
            raise Refused(
                f"cannot write to {self.data_dir}: {error.strerror}; choose another --data-dir"
            ) from None
        except ValueError:
            raise Refused(f"{self.data_dir / '.kit'} is not a file of this kit") from None

    def read_or_make_id(self):
        self.file.seek(0)
        found = self.file.read().strip()
        if not found:
            found = uuid.uuid4().hex
            self.file.write(found + "\n")
            self.file.flush()
            sync_file(self.file.fileno())
            sync_path(self.data_dir)
        return found

    def claim(self, client):
        """Take the streams for this pass; returns the name of the set they hold, or None.

        Refused while they are another directory's and it is busy, or not all is on its disk.
        """
        if not client.set(BUSY_KEY, self.id, nx=True, ex=BUSY_SECONDS):
            self.renew(client)
        owner, _, set_name = text_at(client, OWNER_KEY).partition(" ")
        if owner == self.id:
            return set_name or None
        if owner and any(streams.unsettled(client, collection) for collection in COLLECTIONS):
            self.release(client)
            raise Refused(
                "the streams hold entries of another data directory that are not on its disk yet: "
                f"run the kit there, use another database, or drop them with DEL {OWNER_KEY}"
            )
        for collection in COLLECTIONS:
            streams.delete(client, collection)
        self.name_set(client, "")
        return None

    def name_set(self, client, set_name):
        """Say whose entries the streams hold from now on; they must be settled by then."""
        client.set(OWNER_KEY, f"{self.id} {set_name}")

    def renew(self, client):
        """Stay busy for another while; Refused if another directory took over meanwhile."""
        holder = text_at(client, BUSY_KEY)
        if holder and holder != self.id:
            raise Refused(
                "another run with another data directory is using these streams: "
                "wait for it, or use another database (redis://HOST:PORT/1)"
            )
        # EXPIRE works also when the server's memory is full.
        if not holder or not client.expire(BUSY_KEY, BUSY_SECONDS):
            client.set(BUSY_KEY, self.id, ex=BUSY_SECONDS)

    def owns_streams(self, client):
        return text_at(client, OWNER_KEY).startswith(f"{self.id} ")

    def release(self, client):
        """Let others use the streams; if the server is gone, the key expires by itself."""
        try:
            if text_at(client, BUSY_KEY) == self.id:
                client.delete(BUSY_KEY)
        except (redis.RedisError, OSError):
            pass


def text_at(client, key):
    """The text at a key of ours, "" if there is none; what is no text there is a stranger's."""
    try:
        return (client.get(key) or b"").decode(errors="replace")
    except redis.ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        client.delete(key)
        return ""
