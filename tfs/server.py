"""The composition root: builds the parts from prepared settings, starts and stops them in order.

Owns: the order.  Start: TensorFlow, engine, life cycle (blocks until the models serve), then the ports.  Stop: health says
NOT_SERVING, the ports drain, then life cycle and engine close.  Decides nothing about models, requests or protocols.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import threading
from collections.abc import Callable

from tfs import config, logs
from tfs.errors import Cancelled, TfsError
from tfs.lifecycle import memory

_log = logging.getLogger(__name__)

_STOPPED_EARLY = 0
# gRPC reads it when it is imported.  Its older listener hands a call to fewer threads: a tenth less CPU per call of the grpcio transport
# (grpcio 1.85), a quarter where calls come one at a time.
_GRPC_EXPERIMENTS = "-event_engine_listener"


def main(settings: config.Settings) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code. Raises TfsError for what stops the start. Main thread."""
    logs.install(settings.log_format, settings.log_level)
    memory.tune_malloc()
    os.environ.setdefault("GRPC_EXPERIMENTS", _GRPC_EXPERIMENTS)
    prepared = config.prepare(settings)
    import uvloop

    return uvloop.run(_serve(prepared))


async def _serve(prepared: config.Prepared) -> int:
    stop = _stop_signals()
    # Loading TensorFlow (a quarter of a second without the GIL) and importing the transports (as long, with it) overlap.
    loading = asyncio.ensure_future(_in_thread(lambda: _load_tensorflow(prepared)))
    await asyncio.sleep(0)  # lets it begin
    from tfs import assembly

    await loading
    parts = assembly.build(prepared)
    try:
        if not await _until(stop, parts.start_models):
            return _STOPPED_EARLY
        try:
            await parts.open_ports()
        except TfsError:
            await parts.drain(0.0)  # the port that did open
            raise
        # What start-up made lives as long as the process: the collector need not look at it again for every few hundred requests.
        gc.collect()
        gc.freeze()
        await stop.wait()
        _log.info(
            "Stopping: no new calls, %g s for those under way", prepared.settings.shutdown_grace_seconds
        )
        await parts.drain(prepared.settings.shutdown_grace_seconds)
    finally:
        await _in_thread(parts.close)
    _log.info("Stopped")
    return 0


def _load_tensorflow(prepared: config.Prepared) -> None:
    from tfs import _fastpath, servable

    settings = prepared.settings
    version = servable.load_tensorflow(
        xla=settings.xla_cpu_compilation_enabled or settings.xla_gpu_compilation_enabled
    )
    _log.debug("TensorFlow %s", version)
    _fastpath.report_crashes()  # after the load: TensorFlow installs handlers of its own
    servable.load_op_libraries([path for path in settings.op_libraries.split(",") if path])


def _stop_signals() -> asyncio.Event:
    """Set by SIGTERM or SIGINT. A second one of the same kind ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):

        def received(number: signal.Signals = number) -> None:
            stop.set()
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

        loop.add_signal_handler(number, received)
    return stop


async def _until(stop: asyncio.Event, start: Callable[[], None]) -> bool:
    """Runs the blocking `start` on a thread; False when `stop` came first. Raises what `start` raised."""
    starting = asyncio.ensure_future(_in_thread(start))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.add_done_callback(
            lambda task: task.cancelled() or task.exception()
        )  # nobody waits for it any more: its end is not an error
        return False
    stopping.cancel()
    try:
        starting.result()
    except Cancelled:
        return False
    return True


async def _in_thread(work: Callable[[], None]) -> None:
    """Runs blocking work on a thread of its own (the default executor would be joined by the loop's end, whatever the work does)."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def finish(error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def body() -> None:
        error: BaseException | None = None
        try:
            work()
        except TfsError as problem:
            error = problem
        except BaseException as problem:
            _log.exception("a start-up or shut-down step failed")
            error = problem
        with contextlib.suppress(RuntimeError):  # the loop has ended without us
            loop.call_soon_threadsafe(finish, error)

    threading.Thread(target=body, name="tfs-step", daemon=True).start()
    await done
