"""`Metrics`: the numbers of a running engine for Prometheus. Needs prometheus_client, the extra `metrics`."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from mpengine.observing import (
    EngineState,
    JobAccepted,
    JobFinished,
    JobRetried,
    JobStarted,
    PublicEvent,
    WorkerEnded,
)
from mpengine.report.tally import Tally

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0)
STATUSES = ("succeeded", "failed", "expired", "cancelled", "lost")
_POLL_S = 0.1  # of the server, for its end: which waits as long


class Metrics:
    """An observer that serves metrics over HTTP, at ``http://127.0.0.1:PORT/metrics``, until the engine has closed.

        engine.observe(Metrics(9464))

    It has a registry of its own, so it adds nothing to what the program exports elsewhere.

    Args:
        port: 0: any free one, see `port`.
        host: The address to listen at. The default is reached from this machine only; whoever reaches another one can
            read the numbers.

    Attributes:
        port: The one it listens at.
        registry: The `prometheus_client.CollectorRegistry`, to be served in another way as well.

    Raises:
        ModuleNotFoundError: prometheus_client is not installed.
        ValueError: `port` is none.
        OSError: It cannot listen there.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        try:
            import prometheus_client as prometheus
        except ImportError as error:
            raise ModuleNotFoundError(
                "Metrics needs prometheus_client, which is not installed: pip install 'mpengine[metrics]'"
            ) from error
        if not 0 <= port <= 65535:
            raise ValueError(f"Metrics: port must be a number from 0 to 65535, got {port!r}")
        self.registry = registry = prometheus.CollectorRegistry()
        self._lock = threading.Lock()
        self._tally = Tally()
        self._accepted = prometheus.Counter("mpengine_jobs_accepted", "Jobs taken in.", registry=registry)
        self._finished = prometheus.Counter("mpengine_jobs", "Jobs that have ended.", ["status"], registry=registry)
        for status in STATUSES:
            self._finished.labels(status)  # there from the start, as 0
        self._attempts = prometheus.Counter(
            "mpengine_attempts", "Attempts of jobs that have started.", registry=registry
        )
        self._retries = prometheus.Counter(
            "mpengine_retries", "Attempts that ended badly and were followed by another.", registry=registry
        )
        self._durations = prometheus.Histogram(
            "mpengine_job_duration_seconds", "How long the last attempt of a job ran.", buckets=BUCKETS_S,
            registry=registry,
        )  # fmt: skip
        self._ends = prometheus.Counter("mpengine_workers_ended", "Worker processes that are gone.", registry=registry)
        self._peak = prometheus.Gauge(
            "mpengine_worker_peak_memory_bytes", "The largest peak resident size of any worker.", registry=registry
        )
        self._peak_bytes = 0
        workers = prometheus.Gauge("mpengine_workers", "Worker processes.", ["state"], registry=registry)
        workers.labels("starting").set_function(lambda: len(self._tally.starting))
        workers.labels("ready").set_function(lambda: len(self._tally.ready))
        running = prometheus.Gauge("mpengine_jobs_running", "Jobs that run.", registry=registry)
        running.set_function(lambda: self._now(self._tally.running))
        waiting = prometheus.Gauge("mpengine_jobs_waiting", "Open jobs that do not run.", registry=registry)
        waiting.set_function(lambda: self._now(self._tally.waiting))
        self._server: WSGIServer | None = _serve(prometheus.make_wsgi_app(registry), host, port)
        self.port: int = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name=f"mpengine-metrics-{self.port}", daemon=True
        )
        self._thread.start()

    def __call__(self, event: PublicEvent) -> None:
        with self._lock:
            self._tally.add(event)
        match event:
            case JobAccepted():
                self._accepted.inc()
            case JobStarted():
                self._attempts.inc()
            case JobRetried():
                self._retries.inc()
            case JobFinished(outcome=outcome):
                self._finished.labels(str(outcome.status)).inc()
                if outcome.attempts:
                    self._durations.observe(outcome.duration)
                if outcome.peak_memory > self._peak_bytes:
                    self._peak_bytes = outcome.peak_memory
                    self._peak.set(outcome.peak_memory)
            case WorkerEnded():
                self._ends.inc()
            case EngineState(state="closed"):
                self.close()

    def close(self) -> None:
        """Serve no more; waits about 0.1 s for that. Done by itself when the engine has closed. From any thread."""
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            self._thread.join()

    def _now(self, count: Any) -> float:
        with self._lock:
            return float(count(time.monotonic()))


def _serve(app: Any, host: str, port: int) -> WSGIServer:
    """A server that answers each request in a thread, so that one who is slow to read holds up nobody."""
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True

    class Silent(WSGIRequestHandler):
        timeout = 30.0  # seconds for somebody who connects and says nothing

        def log_message(self, format: str, *args: Any) -> None:
            """Not on stderr."""

    try:
        return make_server(host, port, app, Server, Silent)
    except OSError as error:
        text = f"Metrics: cannot listen at {host}:{port}: {error.strerror or error}; choose another port, or 0 for any"
        raise type(error)(error.errno, text) from error
