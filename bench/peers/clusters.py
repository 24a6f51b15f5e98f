"""Ray and Dask, each as a cluster of one machine: on loopback, without a dashboard, and gone when it is closed.

Neither has a chunk size for its plain calls: tuned by hand, a program cuts its input into batches.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from typing import Any

from bench.peers.base import ClosingPeer, Function, Function2, batches
from bench.work import apply_to_all

LOOPBACK = "127.0.0.1"


class RayPeer(ClosingPeer):
    """Ray's remote functions."""

    start_method = "ray"

    def __init__(self, workers: int, start_method: str | None, chunk: int | None) -> None:
        del start_method  # its workers are programs of its own
        # Before the import: nobody is told about this, and nobody but this machine can reach it.
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        import ray

        self._chunk = chunk
        self._jobs: dict[Callable[..., Any], Any] = {}
        self._folder = tempfile.mkdtemp(prefix="ray-")  # it leaves its logs behind
        ray.init(
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.CRITICAL,
            _node_ip_address=LOOPBACK,
            _temp_dir=self._folder,
        )

    def close(self) -> None:
        import ray

        ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    def each(self, method: str, fn: Function, values: Iterable[Any]) -> Iterable[Any]:
        import ray

        if method == "put":
            return self.each("remote", fn, map(ray.put, values))
        if method != "remote":
            raise LookupError(f"ray has no method {method!r} to measure")
        if self._chunk is None:
            job = self._remote(fn)
            results: Iterable[Any] = ray.get([job.remote(value) for value in values])
            return results
        job = ray.remote(partial_of(fn))
        return chain.from_iterable(ray.get([job.remote(batch) for batch in batches(values, self._chunk)]))

    def each_with(self, method: str, fn: Function2, shared: Any, values: Iterable[Any]) -> Iterable[Any]:
        import ray

        job = self._remote(fn)
        if method == "put":
            shared = ray.put(shared)
        results: Iterable[Any] = ray.get([job.remote(shared, value) for value in values])
        return results

    def call(self, fn: Function, value: Any) -> Any:
        import ray

        return ray.get(self._remote(fn).remote(value))

    def _remote(self, fn: Callable[..., Any]) -> Any:
        """A remote function is made once, as its documentation has it: each is sent to the cluster anew."""
        import ray

        if fn not in self._jobs:
            self._jobs[fn] = ray.remote(fn)
        return self._jobs[fn]


def partial_of(fn: Function) -> Function:
    """`fn` for a batch, as a plain function: Ray does not take a `partial`."""

    def run(batch: list[Any]) -> list[Any]:
        return apply_to_all(fn, batch)

    return run


class DaskPeer(ClosingPeer):
    """Dask's distributed Client over a LocalCluster of processes."""

    start_method = "spawn"

    def __init__(self, workers: int, start_method: str | None, chunk: int | None) -> None:
        del start_method  # the way in which its own setting starts them
        from distributed import Client, LocalCluster

        self._chunk = chunk
        self._cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host=LOOPBACK,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
        self._client = Client(self._cluster)

    def close(self) -> None:
        self._client.close()
        self._cluster.close()

    def each(self, method: str, fn: Function, values: Iterable[Any]) -> Iterable[Any]:
        if method != "map":
            raise LookupError(f"dask has no method {method!r} to measure")
        # pure=False: or it would compute equal jobs once
        if self._chunk is None:
            results: Iterable[Any] = self._client.gather(self._client.map(fn, list(values), pure=False))
            return results
        cut = list(batches(values, self._chunk))
        futures = self._client.map(partial(apply_to_all, fn), cut, pure=False)
        return chain.from_iterable(self._client.gather(futures))

    def call(self, fn: Function, value: Any) -> Any:
        return self._client.submit(fn, value, pure=False).result()
