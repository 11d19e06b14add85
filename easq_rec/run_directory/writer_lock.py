"""One process at a time writes to a run directory, also on a network file system.

The folder RUN_DIR/writer holds one file, `N.json`, with the identity of the process that writes. A process that wants
to write and finds that the holder of N has ended creates N+1; of several such processes, one succeeds. `link` makes a
file with its content in one step, and fails if the name is taken, on every file system that matters, NFS included.
No lock of the operating system is involved: such locks get lost or hang on network file systems.

Whether the holder is alive is known at once where its process can be seen. Elsewhere, on another host or in another
container, its file tells: the holder sets the file's time of change every `BEAT_S` seconds. Clocks are not compared:
the process that wants to write watches the file, for `PATIENCE_S` at most.

A job that its launcher has started again does not wait for its earlier attempt: `attempts_of_jobs` recognises it. If
the earlier process is alive after all, it notices and ends.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from easq_rec import json_file
from easq_rec.disk_failures import is_disk_failure, reason_of
from easq_rec.errors import UserError
from easq_rec.run_directory.paths import RunDirectory, writer_name, writer_number
from easq_rec.run_directory.processes import ProcessIdentity

BEAT_S = 5.0
"""Seconds between two signs of life of a holder."""
PATIENCE_S = 60.0
"""Seconds without a sign of life after which a holder that cannot be seen counts as gone."""
TAKEN = "taken"
UNCLEAR = "unclear"
"""Results of `WriterLock.attempt`; any other says who holds the directory."""
EXCLUSIVE = os.O_RDWR | os.O_CREAT | os.O_EXCL
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""Error numbers of a file system that has no hard links."""
EXIT_CODE = 2
"""Of a process that finds that another one has taken over its run directory."""

COUNTED_JOBS = {
    "SLURM_JOB_ID": "SLURM_RESTART_COUNT",
    "AWS_BATCH_JOB_ID": "AWS_BATCH_JOB_ATTEMPT",
    "TORCHELASTIC_RUN_ID": "TORCHELASTIC_RESTART_COUNT",
}
"""Environment variables: the id of a job, and how often it was started. Within one start of a job there may be several
processes, of which only one may write; a later start replaces them all."""
UNCOUNTED_JOB = "TORCHX_JOB_ID"
"""Environment variable with the id of a TorchX job, which a retry keeps. Such a job has one rank 0."""
NO_RUN_ID = "none"
"""The value of TORCHELASTIC_RUN_ID for torchrun without --rdzv-id: it identifies nothing."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that writes to a run directory."""

    process: ProcessIdentity
    since: str
    """UTC, to the second."""
    token: str
    """Different for each time that a process takes a directory."""
    jobs: dict[str, tuple[str, int]] = field(default_factory=dict)
    """As of `attempts_of_jobs`."""

    def __str__(self) -> str:
        return f"process {self.process.pid} on {self.process.host} since {self.since}"

    def to_json(self) -> str:
        return json_file.text(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Holder | None:
        """None where the content is incomplete: the disk was full when it was written."""
        try:
            content = json.loads(text)
            jobs = {str(name): (str(job), int(attempt)) for name, (job, attempt) in content["jobs"].items()}
            process = ProcessIdentity(**content["process"])
            return cls(process=process, since=str(content["since"]), token=str(content["token"]), jobs=jobs)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


@dataclass(frozen=True, kw_only=True)
class WriterFile:
    """A file of the folder, as it was read."""

    number: int
    holder: Holder | None
    """None: its content is incomplete."""
    inode: int
    sign_ns: int
    """When it last changed. It changes while the holder lives."""


class WriterLock:
    """The right of this process to write to a run directory.

    Args:
        on_loss: called from a thread when another process has taken over, with a message. The default prints it and
            ends this process at once.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        environment: Mapping[str, str] = os.environ,
        on_loss: Callable[[str], object] | None = None,
        beat_s: float = BEAT_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._run_dir = run_dir
        self._folder = RunDirectory(run_dir).writer
        self._beat_s, self._patience_s = beat_s, patience_s
        self._on_loss = on_loss or _end
        self._me = Holder(
            process=ProcessIdentity.own(),
            since=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ"),
            token=uuid.uuid4().hex,
            jobs=attempts_of_jobs(environment),
        )
        self._number = 0
        self._handle = -1
        self._watched: WriterFile | None = None
        self._watched_since = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="writer", daemon=True)

    def attempt(self) -> str:
        """Tries to take the directory, and creates it if it is missing.

        Returns:
            TAKEN; UNCLEAR if the holder may have ended: call again in a second; or a sentence that says who holds it
            and what to do.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return self._attempt()
        except OSError as error:
            return (
                f"--run-dir {self._run_dir}: nothing can be written there: {reason_of(error)}; mend that, or give "
                "another --run-dir"
            )

    def refuse(self) -> None:
        """Changes nothing.

        Raises:
            UserError: a process that is alive, as can be seen at once, holds the directory.
        """
        newest = self._newest()
        if newest is not None and self._judge(newest) is False:
            raise UserError(self._refusal(newest))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Gives signs of life within the block, and gives the directory back at its end. After TAKEN."""
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()
            self.release()

    def release(self) -> None:
        """Gives the directory back. The folder is removed, and the run directory as well if it is empty."""
        with contextlib.suppress(OSError):
            mine = self._read(self._number)
            if mine is not None and mine.inode == os.fstat(self._handle).st_ino:
                self._path(self._number).unlink()
            os.close(self._handle)
            self._folder.rmdir()
            self._run_dir.rmdir()

    def _attempt(self) -> str:
        newest = self._newest()
        if newest is not None:
            gone = self._judge(newest)
            if gone is None:
                gone = self._watch(newest)
                if gone is None:
                    return UNCLEAR
            if not gone:
                return self._refusal(newest)
        number = 1 if newest is None else newest.number + 1
        if not self._create(number):
            # Another process was faster. The next attempt judges that one.
            return UNCLEAR
        # A process that was held up between its look at the folder and here may have created a number that others have
        # left behind, while one of them holds another number.
        before = None if newest is None else self._read(newest.number)
        if before != newest or max(self._numbers()) != number:
            self._path(number).unlink(missing_ok=True)
            os.close(self._handle)
            return UNCLEAR
        self._number = number
        for old in self._numbers():
            if old < number:
                self._path(old).unlink(missing_ok=True)
        return TAKEN

    def _judge(self, found: WriterFile) -> bool | None:
        """Whether the holder is gone, or is an earlier attempt of this job; None if that cannot be known at once."""
        if found.holder is None:
            return None
        if succeeds(self._me.jobs, found.holder.jobs):
            return True
        alive = found.holder.process.alive()
        if alive is not None:
            return not alive
        theirs, mine = (one.jobs.get(UNCOUNTED_JOB) for one in (found.holder, self._me))
        return True if mine is not None and mine == theirs else None

    def _watch(self, found: WriterFile) -> bool | None:
        """Whether a holder that cannot be seen is gone; None while that is not known yet."""
        now = time.monotonic()
        before = self._watched
        if before is None or (before.number, before.inode, before.holder) != (found.number, found.inode, found.holder):
            self._watched, self._watched_since = found, now
            return None
        if found.sign_ns != before.sign_ns:
            return False
        return True if now - self._watched_since >= self._patience_s else None

    def _refusal(self, found: WriterFile) -> str:
        if found.holder is None:
            who, stop = "a process that could not write its name there, since the disk was full", "stop it"
        else:
            who = str(found.holder)
            stop = f"stop it (kill {found.holder.process.pid} on {found.holder.process.host})"
        return (
            f"--run-dir {self._run_dir} is in use by {who}: a run directory has one writer at a time. Wait until it "
            f"has ended, {stop}, or give another --run-dir"
        )

    def _newest(self) -> WriterFile | None:
        """The file with the highest number; None: nobody writes."""
        for number in sorted(self._numbers(), reverse=True):
            found = self._read(number)
            if found is not None:
                return found
        return None

    def _numbers(self) -> list[int]:
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        return [number for name in names if (number := writer_number(name)) is not None]

    def _read(self, number: int) -> WriterFile | None:
        """None: there is no such file."""
        try:
            # A network file system asks its server when a file is opened.
            with self._path(number).open(encoding="utf-8", errors="replace") as file:
                state = os.fstat(file.fileno())
                holder = Holder.from_json(file.read())
        except FileNotFoundError:
            return None
        return WriterFile(number=number, holder=holder, inode=state.st_ino, sign_ns=state.st_mtime_ns)

    def _create(self, number: int) -> bool:
        """Creates a file with this number and the identity of this process; returns whether it did not exist."""
        partial = self._folder / f".{self._me.token}"
        handle = os.open(partial, EXCLUSIVE, 0o644)
        try:
            self._write(handle)
            if not self._link(partial, number):
                os.close(handle)
                return False
        except OSError as error:
            os.close(handle)
            if error.errno not in NO_LINKS:
                raise
            # A file system without links, such as that of a USB stick.
            try:
                handle = os.open(self._path(number), EXCLUSIVE, 0o644)
            except FileExistsError:
                return False
            self._write(handle)
        finally:
            partial.unlink(missing_ok=True)
        self._handle = handle
        return True

    def _link(self, partial: Path, number: int) -> bool:
        try:
            os.link(partial, self._path(number))
        except OSError as error:
            # A network file system may lose the answer to a link that succeeded, and try again: the count tells.
            if partial.stat().st_nlink == 2:
                return True
            if isinstance(error, FileExistsError):
                return False
            raise
        return True

    def _write(self, handle: int) -> None:
        """Writes the identity. On a full disk the file stays empty: its existence and its time of change suffice."""
        try:
            os.pwrite(handle, self._me.to_json().encode(), 0)
        except OSError as error:
            if not is_disk_failure(error):
                raise

    def _keep(self) -> None:
        """Gives signs of life, and notices when another process has taken over."""
        while not self._over.wait(self._beat_s):
            # A disk that fails for a while must not end the run.
            with contextlib.suppress(OSError):
                os.utime(self._handle)
                if not os.fstat(self._handle).st_size:
                    self._write(self._handle)
                # A process that created a higher number by mistake removes it at once.
                if self._superseded() and not self._over.wait(self._beat_s / 2) and self._superseded():
                    newest = self._newest()
                    who = "another process" if newest is None or newest.holder is None else str(newest.holder)
                    self._on_loss(
                        f"{self._run_dir} was taken over by {who}, since this process gave no sign of life for a while "
                        "or is an earlier attempt of the same job. It ends, so that only one of them writes"
                    )
                    return

    def _superseded(self) -> bool:
        return max(self._numbers(), default=0) > self._number

    def _path(self, number: int) -> Path:
        return self._folder / writer_name(number)


def attempts_of_jobs(environment: Mapping[str, str]) -> dict[str, tuple[str, int]]:
    """(id, number of the attempt) of the jobs that this process is part of, by the name of the environment variable."""
    found = {}
    for name, counter in COUNTED_JOBS.items():
        job, count = environment.get(name), environment.get(counter, "0")
        if job and job != NO_RUN_ID:
            found[name] = (job, int(count) if count.isdecimal() else 0)
    if job := environment.get(UNCOUNTED_JOB):
        found[UNCOUNTED_JOB] = (job, 0)
    return found


def succeeds(mine: Mapping[str, tuple[str, int]], theirs: Mapping[str, tuple[str, int]]) -> bool:
    """Whether one of my jobs is a later attempt of one of theirs."""
    return any(
        name in theirs and theirs[name][0] == job and theirs[name][1] < attempt for name, (job, attempt) in mine.items()
    )


def _end(message: str) -> None:
    with contextlib.suppress(OSError):
        print(f"easq-rec: {message}", file=sys.stderr, flush=True)
    os._exit(EXIT_CODE)
