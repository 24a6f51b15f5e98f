"""Real clusters on this machine, and engines on them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import psutil

from mpengine import Engine, connect
from mpengine.engine import AnyEngine
from tests.support import WAIT_S, wait_for

WORKERS = 2  # nodes of one worker each; on Ray, one node of two


class Cluster(Protocol):
    """Where engines are made."""

    kind: str

    def connect(self, **options: Any) -> AnyEngine: ...

    def kill_a_node(self, engine: AnyEngine) -> None:
        """Kill a process that the cluster runs an engine's jobs in, with the engine of that node."""


class Local:
    """No cluster."""

    kind = "local"

    def connect(self, **options: Any) -> AnyEngine:
        return connect("local", **{"max_workers": WORKERS, **options})

    def kill_a_node(self, engine: AnyEngine) -> None:
        assert isinstance(engine, Engine)
        os.kill(wait_for(engine.workers)[0].pid, signal.SIGKILL)  # type: ignore[index]


class Remote:
    """A cluster at an address."""

    def __init__(self, kind: str, address: str) -> None:
        self.kind = kind
        self.address = address

    def connect(self, **options: Any) -> AnyEngine:
        return connect(self.address, **options)

    def kill_a_node(self, engine: AnyEngine) -> None:
        link = next(iter(engine._dispatcher.nodes.links.values()))  # type: ignore[attr-defined]
        os.kill(link.about.pid, signal.SIGKILL)


@contextmanager
def dask() -> Iterator[Remote]:
    """A scheduler and two workers of one thread, each in a process of its own."""
    import dask
    from distributed import LocalCluster

    with (
        dask.config.set({"distributed.worker.daemon": True}),
        LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs="CRITICAL"
        ) as cluster,
    ):
        yield Remote("dask", cluster.scheduler_address.replace("tcp://", "dask://"))


@contextmanager
def ray() -> Iterator[Remote]:
    """A node with two CPUs, started here."""
    import ray

    ray.init(num_cpus=WORKERS, include_dashboard=False, logging_level="error", log_to_driver=False)
    try:
        yield Remote("ray", "ray")
    finally:
        ray.shutdown()


@contextmanager
def ray_client() -> Iterator[Remote]:
    """The same, started by a command; reached by its client server.

    Which sometimes fails to start the process it has for each client (Ray 2.60: it forks beside threads of gRPC, and
    what it has forked stands still): then it is started anew.
    """
    import ray

    os.environ["RAY_AUTH_MODE"] = "disabled"  # of a cluster that only this machine can reach
    port = 20000 + os.getpid() % 3000
    address = f"ray://127.0.0.1:{port}"
    for attempts_left in (3, 2, 1, 0):
        _ray_command(
            "start", "--head", "--port", str(port + 1), "--num-cpus", str(WORKERS), "--disable-usage-stats",
            "--include-dashboard", "false", "--ray-client-server-port", str(port),
        )  # fmt: skip
        try:
            ray.init(address, logging_level="critical")
        except Exception:
            _ray_command("stop", "--force")
            if not attempts_left:
                raise
        else:
            ray.shutdown()
            break
    try:
        yield Remote("ray-client", address)
    finally:
        _ray_command("stop", "--force")


def _ray_command(*arguments: str) -> None:
    command = [sys.executable, "-m", "ray.scripts.scripts", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def local() -> Iterator[Local]:
    yield Local()


def below(pid: int) -> set[int]:
    """Processes below this one."""
    try:
        return {child.pid for child in psutil.Process(pid).children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


KINDS = {"local": local, "dask": dask, "ray": ray, "ray-client": ray_client}

__all__ = ["KINDS", "WAIT_S", "WORKERS", "Cluster", "below"]
