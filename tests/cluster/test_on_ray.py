"""What the driver of Ray makes of an actor's answers, without Ray. The rest of it is in the conformance suite."""

import pickle
from concurrent.futures import CancelledError, Future
from types import SimpleNamespace
from typing import Any

import pytest

from mpengine.cluster.agent import NoSuchAgent
from mpengine.cluster.driver import NodeGone
from mpengine.cluster.on_ray import RayDriver


class ActorDied(Exception):
    pass


class TaskFailed(Exception):
    def __init__(self, cause: Exception) -> None:
        super().__init__("the actor's traceback")
        self.cause = cause


def answer_to(result: Any) -> tuple[Any, BaseException | None]:
    """What a call is told when Ray gives this: bytes, or an exception."""
    driver = RayDriver.__new__(RayDriver)
    driver._gone = (ActorDied,)
    future: Future[bytes] = Future()
    actor = SimpleNamespace(call=SimpleNamespace(remote=lambda _: SimpleNamespace(future=lambda: future)))
    answers: list[tuple[Any, BaseException | None]] = []
    driver.call(actor, "take", (1,), lambda answer, error: answers.append((answer, error)))
    assert not answers
    if isinstance(result, CancelledError):
        future.cancel()
    elif isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
    (answer,) = answers
    return answer


def test_a_value() -> None:
    assert answer_to(pickle.dumps((1, b"two"))) == ((1, b"two"), None)


@pytest.mark.parametrize("error", [ActorDied("its node\n has died"), TaskFailed(NoSuchAgent()), NoSuchAgent()])
def test_an_actor_that_has_ended(error: Exception) -> None:
    answer, told = answer_to(error)
    assert answer is None
    assert isinstance(told, NodeGone)
    assert str(told).startswith("its actor has ended: ")
    assert "\n" not in str(told)


@pytest.mark.parametrize(
    "result", [b"no pickle", pickle.dumps(1)[:-1], TaskFailed(MemoryError()), OSError("the line"), CancelledError()]
)
def test_an_answer_that_is_none_is_an_error_and_not_the_end_of_the_actor(result: Any) -> None:
    answer, told = answer_to(result)
    assert answer is None
    assert isinstance(told, Exception)
    assert not isinstance(told, NodeGone)
