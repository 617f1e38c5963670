"""Jobs side by side on a Dask cluster: processes of this machine, or of any number of machines.

Needs `pip install 'goodparts[cluster]'`. A worker is given one job at a time, so whoever dies is known to have died of
that one, and results are fetched one by one and let go. What Dask knows of a dead worker (`KilledWorker`) becomes
`WorkerDiedError`.
"""

from __future__ import annotations

import logging
import queue
import uuid
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from threadpoolctl import threadpool_limits

from goodparts.errors import GoodpartsError
from goodparts.parallel import cores
from goodparts.scale.executor import Job, Result, WorkerDiedError
from goodparts.scale.waiting import Waiting

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

_LOOK = 1.0  # seconds after which somebody looks again which workers there are
_START = 20  # seconds that a scheduler has to answer
_LARGE = "1GB"  # a job that Dask warns of; those that bring a memory bank are larger than what it warns of by default
_MISSING = "Dask's packages are not installed; pip install 'goodparts[cluster]', or take --on processes"


class DaskCluster:
    """An `Executor` on a Dask cluster, until `close`, or the end of a `with` block.

    Attributes:
        workers: threads that each job should use; None: as many as its machine has cores, and one more.
        memory_limit: bytes that each worker may take; 0: nobody here has set a limit.
    """

    def __init__(
        self,
        client: Client,
        cluster: LocalCluster | None = None,
        workers: int | None = None,
        memory_limit: int = 0,
    ) -> None:
        self._client: Any = client
        self._cluster: Any = cluster
        self.workers = workers
        self.memory_limit = memory_limit

    @classmethod
    def local(cls, at_once: int, *, memory_limit: int = 0, gpu_per_worker: bool = False) -> Self:
        """A cluster of so many processes on this machine.

        Args:
            at_once: worker processes, each on its share of the cores.
            memory_limit: bytes of each; one that comes near is ended, and its job given to another. 0: no limit.
            gpu_per_worker: whether each process sees one GPU, that of its number.

        Raises:
            GoodpartsError: Dask is not installed.
        """
        distributed, settings = _distributed()
        with settings.set(
            {
                "distributed.scheduler.allowed-failures": 0,  # how often a job is tried again is not Dask's to say
                "distributed.worker.memory.target": False,
                "distributed.worker.memory.spill": False,
                "distributed.worker.memory.pause": False,  # a worker that pauses waits for ever
                "distributed.worker.memory.terminate": 0.95,
            }
        ):
            cluster = distributed.LocalCluster(
                n_workers=at_once,
                threads_per_worker=1,
                processes=True,
                memory_limit=memory_limit,
                dashboard_address=":0" if _has_dashboard() else None,
                silence_logs=logging.CRITICAL,
            )
            client = distributed.Client(cluster)
        client.register_plugin(_share_of(at_once, gpu_per_worker))
        return cls(client, cluster, max(1, cores() // at_once) + 1, memory_limit)

    @classmethod
    def connect(cls, address: str) -> Self:
        """The cluster of a scheduler that runs already, such as `tcp://10.0.0.5:8786`.

        Raises:
            GoodpartsError: Dask is not installed, or nobody answers.
        """
        distributed, _ = _distributed()
        try:
            client = distributed.Client(address, timeout=_START)
        except (OSError, ValueError, TimeoutError) as error:
            raise GoodpartsError(
                f"--on dask:{address}: no scheduler answers there ({error}); start one with `dask scheduler`, or check "
                "address and port"
            ) from None
        return cls(client)

    @property
    def dashboard(self) -> str:
        """Address of Dask's own page; empty where Bokeh, which draws it, is not installed."""
        return str(self._client.dashboard_link) if _has_dashboard() else ""

    def run(
        self, jobs: Sequence[Job[Result]]
    ) -> Generator[tuple[Job[Result], Result | Exception], None, None]:
        """Yield every job with its result or error, as they finish.

        Raises:
            GoodpartsError: the scheduler is gone.
        """
        waiting = Waiting(jobs)
        finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        running: dict[Any, tuple[Job[Any], str]] = {}
        last: dict[str, str] = {}

        def hand_out(addresses: Sequence[str]) -> None:
            taken = {address for _, address in running.values()}
            for address in addresses:
                if not waiting or address in taken:
                    continue
                job = waiting.take(last.get(address), {each.affinity for each, _ in running.values()})
                last[address] = job.affinity
                future = self._submit(job, address)
                running[future] = job, address
                future.add_done_callback(finished.put)

        try:
            while waiting or running:
                addresses = self._addresses()
                for future, (job, address) in list(running.items()):
                    if address not in addresses and not future.done():
                        del running[future]
                        future.release()  # else it would wait for that very worker
                        yield job, WorkerDiedError(None, address)
                hand_out(addresses)
                try:
                    future = finished.get(timeout=_LOOK)
                except queue.Empty:
                    continue
                if future not in running:
                    continue
                job, address = running.pop(future)
                found = self._result_of(future)
                future.release()
                if not isinstance(found, WorkerDiedError):
                    hand_out([address])  # before the caller takes its time
                yield job, found
        finally:
            if running:
                with suppress(Exception):  # the cluster may be gone
                    self._client.cancel(list(running), force=True)

    def close(self) -> None:
        """Leave the cluster; one that was made here ends."""
        with suppress(Exception):
            self._client.close()
        if self._cluster is not None:
            with suppress(Exception):
                self._cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _addresses(self) -> list[str]:
        """Of the workers that there are now."""
        if self._client.status != "running":
            raise _gone("the connection to it was lost")
        try:
            return sorted(self._client.ncores())
        except Exception as error:
            raise _gone(error) from None

    def _submit(self, job: Job[Any], address: str) -> Any:
        _, settings = _distributed()
        with settings.set({"distributed.admin.large-graph-warning-threshold": _LARGE}):
            return self._client.submit(
                _call,
                job.call,
                self.workers,
                key=f"{job.name}-{uuid.uuid4().hex[:8]}",
                pure=False,
                workers=[address],
            )

    def _result_of(self, future: Any) -> Any:
        """What a job returned, or the exception that it ended with."""
        from distributed.scheduler import KilledWorker

        if future.status in ("cancelled", "lost"):
            raise _gone(f"a job is {future.status}")
        try:
            return future.result(timeout=_START)
        except KilledWorker as error:
            return WorkerDiedError(None, str(error.last_worker.address))
        except Exception as error:  # whoever asked for the job decides what becomes of it
            return error


def _gone(why: object) -> GoodpartsError:
    return GoodpartsError(
        f"the scheduler does not answer any more ({why}); start it and then the same command again: it goes on "
        "from what is finished"
    )


def _distributed() -> tuple[Any, Any]:
    """Dask's package, and its settings."""
    try:
        import dask.config
        import distributed
    except ImportError:
        raise GoodpartsError(f"--on dask: {_MISSING}") from None
    return distributed, dask.config


def _has_dashboard() -> bool:
    from importlib.util import find_spec

    return find_spec("bokeh") is not None


# ---- in the worker -------------------------------------------------------------------------------------


def _call(call: Any, workers: int | None) -> Any:
    with threadpool_limits(limits=workers):
        return call()


def _share_of(slots: int, gpu_per_worker: bool) -> Any:
    """What makes a worker of a local cluster keep to its share of the cores."""
    from distributed import WorkerPlugin

    class Share(WorkerPlugin):
        name = "goodparts-share"

        def setup(self, worker: Any) -> None:
            from goodparts.scale.pool import see_one_gpu
            from goodparts.scale.processes import take_share

            slot = int(worker.name) % slots
            take_share(slot, slots)
            if gpu_per_worker:
                see_one_gpu(slot)

    return Share()
