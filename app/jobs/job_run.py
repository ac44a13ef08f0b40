"""One execution of a job: the task that collects what it brings, and the readers that wait for that."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum

from app.errors import SHUTTING_DOWN, ApiError, ServiceUnavailable, TaskCanceled
from app.jobs.pipeline_interface import Emit, GenerationResult, Item
from app.jobs.telemetry import JobTelemetry
from app.observability.logging import log


class StopReason(Enum):
    """Why a run was stopped before its work was done."""

    CALLED_OFF = "no client waited for it any more, and it had cost nothing: a request that joins starts it again"
    CANCELED = "its client has canceled it, and it had cost nothing: nothing starts it again"
    INTERRUPTED = "this replica shut down after submission, so whether the image was paid for is unknown"


def _do_nothing() -> None:
    return


class JobRun:
    """One execution of a job: a task that collects items, and the readers that wait for them.

    Attributes:
        items: What the run has brought so far. Every reader reads from the first item.
        error: What the run ended with, if it did not succeed.
        readers: Client connections that wait for the result.
        revision: Counts the changes other than new items, such as another progress line.
        was_submitted: Something was sent to an upstream, whether or not it has cost anything.
        stop_reason: Why it was stopped, perhaps a moment before its end; None where it goes on, or has ended by itself.
        was_canceled: Its task was canceled before it had cost anything, for whatever reason.
        cause: The exception behind `error`; the error itself, unless that hides a bug or a failure of the system.
        chat_errors: What chat requests have failed with. All other failures came after a reply.
        on_change: Called whenever the number of readers or the state of the run has changed.
        task: What runs, until it has ended.
    """

    def __init__(self, telemetry: JobTelemetry | None = None, *, readers: int = 0) -> None:
        self.telemetry = JobTelemetry() if telemetry is None else telemetry
        self.items: list[Item] = []
        self.error: ApiError | None = None
        self.readers = readers
        self.revision = 0
        self.was_submitted = False
        self.stop_reason: StopReason | None = None
        self.was_canceled = False
        self.cause: BaseException | None = None
        self.chat_errors: list[BaseException] = []
        self.on_change: Callable[[], None] = lambda: None
        self._unsettled = 0
        self.task: asyncio.Task[None] | None = None
        self._is_finished = False
        self._on_done: Sequence[Callable[[asyncio.Task[None]], None]] = ()
        self._on_unread: Callable[[], None] = lambda: None
        # Made when somebody waits for it: most readers wait for the task instead.
        self._next_change: asyncio.Future[None] | None = None

    def start(
        self,
        work: Callable[[Emit], Awaitable[None]],
        *,
        on_done: Sequence[Callable[[asyncio.Task[None]], None]] = (),
        on_unread: Callable[[], None] = lambda: None,
    ) -> asyncio.Task[None]:
        """Start the task that does the work and collects its items, and return it.

        Args:
            work: The work itself. It is given the function that takes its items.
            on_done: Called once, in order, with the task when it has ended.
            on_unread: Called when the task has ended and has no readers (left), after `on_done`; again when a reader
                that came later has left.
        """
        self._on_done, self._on_unread = on_done, on_unread
        self.task = asyncio.create_task(self._collect(work))
        self.task.add_done_callback(self._finish)
        return self.task

    async def _collect(self, work: Callable[[Emit], Awaitable[None]]) -> None:
        try:
            await work(self._take)
        except ApiError as error:
            # Without its frames, which would keep the buffers of the request alive.
            self.error = self.cause = error.with_traceback(None)
        except asyncio.CancelledError:
            self._note_cancellation()
            raise
        except Exception as bug:  # noqa: BLE001  # reason: a bug must not leave readers waiting; they get a 500
            log.exception("unhandled_error")
            self.error, self.cause = ApiError(), bug.with_traceback(None)

    def _take(self, item: Item) -> None:
        self.items.append(item)
        self._wake_readers()

    def _note_cancellation(self) -> None:
        self.was_canceled = True
        is_by_client = self.stop_reason is StopReason.CANCELED
        self.error = TaskCanceled() if is_by_client else ServiceUnavailable(SHUTTING_DOWN)

    def _finish(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() and self.error is None:
            # Before its first step, so `_collect` has not begun. It must not look like a success without a result.
            self._note_cancellation()
        self._wake_readers()
        # Not kept: they refer to everything of the request, and a finished job is retained for a minute.
        callbacks, self._on_done = self._on_done, ()
        for callback in callbacks:
            callback(task)
        self._is_finished = True
        # With its coroutine and its context it would hold 1 KiB for as long as the job is retained.
        self.task = None
        self.on_change()
        self._report_if_unread()

    @property
    def is_done(self) -> bool:
        """Whether the task has ended, for whatever reason."""
        return self._is_finished or (self.task is not None and self.task.done())

    @property
    def result(self) -> GenerationResult | None:
        """The result, which is the last item; None where the run has not come so far."""
        last = self.items[-1] if self.items else None
        return last if isinstance(last, GenerationResult) else None

    async def wait_done(self) -> None:
        """Wait for the end of the run, however it ends."""
        while not self.is_done:
            await asyncio.shield(self.next_change())

    # How it is stopped.

    def call_off(self) -> None:
        """Stop a run that has cost nothing and that no client waits for."""
        self._stop(self.stop_reason or StopReason.CALLED_OFF)

    def cancel(self) -> None:
        """Stop a run that has cost nothing, at the wish of its client."""
        self._stop(StopReason.CANCELED)

    def interrupt(self) -> None:
        """Note that this replica ends the run after submission."""
        self.stop_reason = StopReason.INTERRUPTED

    def _stop(self, reason: StopReason) -> None:
        """Stop the run, if it has not ended. Nothing is sent from now on.

        The cancellation reaches the tasks of several chat requests one step of the event loop later than the reason.
        """
        if self.task is not None and not self.task.done():
            self.stop_reason = reason
            self.task.cancel()
            self.on_change()

    # What it may cost.

    def mark_submitted(self) -> None:
        """Note that an attempt is put on the wire: from now on the run may cost something."""
        self.was_submitted = True
        self._unsettled += 1

    def mark_free(self) -> None:
        """Note that an attempt has failed in a way that surely cost nothing."""
        self._unsettled -= 1

    @property
    def may_have_cost(self) -> bool:
        """Whether an attempt was put on the wire that has not failed in a way that cost nothing."""
        return self._unsettled > 0

    # Who reads it.

    def add_reader(self) -> None:
        """Count one more reader, which must call `release` at the end."""
        self.readers += 1
        self.on_change()

    def release(self) -> None:
        """Note that a reader has got everything, or has left."""
        self.readers -= 1
        self.on_change()
        self._report_if_unread()

    def _report_if_unread(self) -> None:
        # A reader can be woken by the last item and release the run before `_finish` has run. The report must wait for
        # `_finish`, which calls this method again.
        if self.readers == 0 and self._is_finished:
            self._on_unread()

    def detach(self) -> None:
        """Report nothing any more to those who have dropped the job, and forget them if no reader needs them."""
        self.on_change = _do_nothing
        if self._is_finished and not self.readers:
            self._on_unread = _do_nothing

    # What they read.

    def has_more(self, have: int, revision: int | None = None) -> bool | None:
        """Return whether there are more than `have` items, or another `revision` than the given one.

        False where nothing is left to read, None where it is still unknown.
        """
        if len(self.items) > have:
            return True
        if self.is_done:
            return False
        return None if revision in {None, self.revision} else True

    def next_change(self) -> asyncio.Future[None]:
        """Return a future that ends with the next change: an item, a revision or the end.

        All who wait share it, so nobody may cancel it: who awaits it has to shield it.
        """
        if self._next_change is None:
            self._next_change = asyncio.get_running_loop().create_future()
        return self._next_change

    def notify(self) -> None:
        """Wake those readers that also wait for changes other than new items."""
        self.revision += 1
        self._wake_readers()

    def _wake_readers(self) -> None:
        # Readers that come later wait for a later change.
        change, self._next_change = self._next_change, None
        if change is not None:
            change.set_result(None)
