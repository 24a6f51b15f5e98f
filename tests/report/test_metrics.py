"""Metrics: the numbers Prometheus gets, where it gets them, and until when."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from typing import Any

import pytest

from mpengine import Job, Metrics
from tests.report import jobs
from tests.report.runs import EXPECTED, mixed_run
from tests.report.stories import Story
from tests.runtime.fixtures import MakeEngine
from tests.runtime.gates import Gate
from tests.support import WAIT_S, run_python, wait_for


@pytest.fixture
def metrics() -> Any:
    pytest.importorskip("prometheus_client", reason="prometheus_client is not installed: the extra `metrics`")
    found = Metrics(0)
    yield found
    found.close()


def read(metrics: Any) -> dict[str, float]:
    """As Prometheus reads them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=WAIT_S) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_the_numbers_of_a_run(make_engine: MakeEngine, gate: Gate, metrics: Any) -> None:
    mixed_run(make_engine, gate, metrics)
    value = metrics.registry.get_sample_value
    for status in ("succeeded", "failed", "expired", "lost", "cancelled"):
        assert value("mpengine_jobs_total", {"status": status}) == EXPECTED[status]
    assert value("mpengine_jobs_accepted_total") == EXPECTED["accepted"]
    assert value("mpengine_retries_total") == EXPECTED["retried-attempts"]
    started = EXPECTED["accepted"] - 1  # one was cancelled before
    assert value("mpengine_attempts_total") == started + EXPECTED["retried-attempts"]
    assert value("mpengine_job_duration_seconds_count") == started
    assert value("mpengine_job_duration_seconds_sum") >= 0.2
    assert value("mpengine_worker_peak_memory_bytes") > 1 << 20
    assert value("mpengine_jobs_running") == value("mpengine_jobs_waiting") == 0
    assert value("mpengine_workers", {"state": "ready"}) == value("mpengine_workers", {"state": "starting"}) == 0
    assert value("mpengine_workers_ended_total") >= 3


def test_they_are_served_while_jobs_run_and_no_longer_than_the_engine(
    make_engine: MakeEngine, gate: Gate, metrics: Any
) -> None:
    engine = make_engine(1)
    engine.observe(metrics)
    futures = [engine.dispatch(Job(jobs.enter, (gate.door,))) for _ in range(3)]
    gate.arrival()
    wait_for(lambda: read(metrics)["mpengine_attempts_total"] == 1, about="the start of a job that runs on")
    found = read(metrics)
    assert found["mpengine_jobs_running"] == 1
    assert found["mpengine_jobs_waiting"] == 2
    assert found['mpengine_workers{state="ready"}'] == 1
    assert found['mpengine_jobs_total{status="failed"}'] == 0  # there before it happens
    gate.open()
    for future in futures:
        future.result(WAIT_S)
    engine.shutdown()
    with pytest.raises(urllib.error.URLError, match="refused"):
        read(metrics)
    metrics.close()  # does nothing


def test_it_listens_on_loopback_only(metrics: Any) -> None:
    assert metrics._server.server_address == ("127.0.0.1", metrics.port)


def test_a_client_that_says_nothing_holds_up_nobody(metrics: Any) -> None:
    with socket.create_connection(("127.0.0.1", metrics.port), timeout=WAIT_S):
        Story().accepted("a", 0.0).tell(metrics)
        assert read(metrics)["mpengine_jobs_accepted_total"] == 1


def test_two_of_them_do_not_get_into_each_others_way(metrics: Any) -> None:
    other = Metrics(0)
    try:
        Story().accepted("a", 0.0).tell(other)
        assert read(metrics)["mpengine_jobs_accepted_total"] == 0
        with pytest.raises(OSError, match=f"Metrics: cannot listen at 127.0.0.1:{other.port}: Address already in use"):
            Metrics(other.port)
    finally:
        other.close()


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none(port: int) -> None:
    pytest.importorskip("prometheus_client", reason="prometheus_client is not installed: the extra `metrics`")
    with pytest.raises(ValueError, match=f"Metrics: port must be a number from 0 to 65535, got {port}"):
        Metrics(port)


def test_without_prometheus_client_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['prometheus_client'] = None; from mpengine import Metrics; Metrics(0)"
    done = run_python("-c", code)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == (
        "ModuleNotFoundError: Metrics needs prometheus_client, which is not installed: pip install 'mpengine[metrics]'"
    )
