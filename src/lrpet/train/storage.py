"""Where a study is kept: in a file of the folder, or in a database that several machines reach.

In both, every process says now and then that its trial is alive. A trial that nothing was heard of for `GRACE` seconds is
lost: the next process that asks for a trial gets it.
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages._heartbeat import BaseHeartbeat  # the journal has none of its own
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

#: Seconds between two signs of life of a trial.
HEARTBEAT = 30
#: Seconds without one after which a trial is lost.
GRACE = 120
#: Times that a lost trial is taken again, so that one that kills its process does not do so for ever.
RETRIES = 3


def storage_of(folder: Path, url: str | None) -> BaseStorage:
    """Open the file in `folder` or the database at `url`, or make its tables.

    Raises ValueError if the address is none, is in memory, or nothing answers there, or if the file is damaged, and ImportError
    if the database's driver is missing.
    """
    if url is None:
        folder.mkdir(parents=True, exist_ok=True)
        return _journal(folder)
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, ProgrammingError

    try:
        address = make_url(url)
    except ArgumentError:
        raise ValueError(
            "storage is not the URL of a database: write DATABASE+DRIVER://USER@HOST/NAME, such as "
            "postgresql+psycopg://me@db/searches"
        ) from None
    shown = address.render_as_string(hide_password=True)
    if address.get_backend_name() == "sqlite" and address.database in (None, "", ":memory:"):
        raise ValueError(f"storage={shown} is in memory, where no other worker reaches it: name a server or a file")
    try:
        try:
            return _database(url)
        except (IntegrityError, ProgrammingError):  # another process made its tables at this moment
            time.sleep(1)
            return _database(url)
    except (ImportError, ArgumentError) as error:  # no driver, or a kind of database that SQLAlchemy does not know
        raise ImportError(
            f"no driver for storage={shown}: pip install 'lrpet[postgresql]' and write postgresql+psycopg://…, or install "
            f"another one that SQLAlchemy names ({_first_line(error.__cause__ or error)})"
        ) from error
    except DBAPIError as error:
        raise ValueError(
            f"the database at storage={shown} does not answer, or does not let this user make tables: "
            f"{_first_line(error.orig or error)}"
        ) from error


def _journal(folder: Path) -> BaseStorage:
    """Open the journal in a folder; a last line that was cut off is taken away, so that no other is written behind it."""
    path = folder / "study.journal"
    lock = JournalFileSymlinkLock(str(path))
    backend = JournalFileBackend(str(path), lock_obj=lock)
    lock.acquire()
    try:
        with path.open("r+b") as file:
            lines = file.read().splitlines(keepends=True)
            if lines and not lines[-1].endswith(b"\n"):
                file.truncate(sum(map(len, lines[:-1])))
                lines.pop()
    finally:
        lock.release()
    try:
        json.loads(lines[-1] if lines else b"{}")  # Optuna itself finds out at the next line
        return _Journal(backend, folder / "alive")
    except Exception as error:  # whatever Optuna comes to in lines that it did not write
        if isinstance(error, OSError):
            raise
        raise ValueError(
            f"{path} is damaged, and the trials in it cannot be read ({type(error).__name__}: {error}): put a copy back, or "
            "search in another folder"
        ) from None


def _database(url: str) -> RDBStorage:
    """Open a database without a pool of connections: each transaction opens its own, and closes it."""
    from sqlalchemy.pool import NullPool

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RDBStorage(
            url,
            engine_kwargs={"poolclass": NullPool},
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
            heartbeat_stale_trial_callback=taken_again(),
        )


def taken_again() -> RetryHeartbeatStaleTrialCallback:
    """Return what puts a lost trial into the queue again, with its ratios."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)


class _Journal(JournalStorage, BaseHeartbeat):
    """A journal in a folder, whose trials show by the age of a file of theirs that they are alive."""

    def __init__(self, backend: JournalFileBackend, beats: Path) -> None:
        super().__init__(backend)
        self._beats = beats
        self._beats.mkdir(exist_ok=True)

    def record_heartbeat(self, trial_id: int) -> None:
        """Say that a trial is alive."""
        self._file(trial_id).touch()

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Change a trial's state; one that has ended leaves no file."""
        changed = super().set_trial_state_values(trial_id, state, values)
        if state.is_finished():
            self._file(trial_id).unlink(missing_ok=True)
        return changed

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """List the running trials that nothing was heard of for a while, by the clock of the folder's file system."""
        with tempfile.NamedTemporaryFile(dir=self._beats, prefix=".now-") as file:
            now = Path(file.name).stat().st_mtime
        running = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
        return [trial._trial_id for trial in running if now - self._heard(trial) > GRACE]

    def _heard(self, trial: FrozenTrial) -> float:
        try:
            return self._file(trial._trial_id).stat().st_mtime
        except FileNotFoundError:  # killed before it said anything
            return trial.datetime_start.timestamp() if trial.datetime_start else time.time()

    def _file(self, trial_id: int) -> Path:
        return self._beats / str(trial_id)

    def get_heartbeat_interval(self) -> int:
        """Return the seconds between two signs of life."""
        return HEARTBEAT

    def get_heartbeat_stale_trial_callback(self) -> Callable[[optuna.Study, FrozenTrial], None]:
        """Return what becomes of a lost trial."""
        return taken_again()


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
