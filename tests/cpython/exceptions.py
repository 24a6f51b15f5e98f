"""Which of CPython's tests of ProcessPoolExecutor the engine does not pass, and why.

The list is kept honest by `test_cpython`: a test that fails and is not here, and one that is here and passes, fail it.
"""

from typing import NamedTuple


class Exemption(NamedTuple):
    """Tests that are not passed.

    Attributes:
        pattern: Of their class and method, as fnmatch has it.
        reason: Why, in a sentence.
        may_pass: It is a matter of time.
    """

    pattern: str
    reason: str
    may_pass: bool = False


# ---- they look at private attributes of ProcessPoolExecutor ----------------------------------------------------------

PROCESSES = "It counts, joins or kills the processes in the private attribute `_processes`."
MANAGER = "It waits for the thread in the private attribute `_executor_manager_thread`."

PRIVATE = (
    Exemption("*.test_context_manager_shutdown", PROCESSES),
    Exemption("*.test_processes_terminate", PROCESSES),
    Exemption("*.test_shutdown_no_wait", PROCESSES),
    Exemption("*.test_saturation", PROCESSES),
    Exemption("*.test_idle_process_reuse_*", PROCESSES),
    Exemption("ProcessPoolForkserver*.test_max_tasks_per_child", PROCESSES),
    Exemption("ProcessPoolSpawn*.test_max_tasks_per_child", PROCESSES),
    Exemption("*.test_del_shutdown", MANAGER),
    Exemption("*.test_shutdown_deadlock_pickle", MANAGER),
    Exemption(
        "*.test_max_tasks_per_child_defaults_to_spawn_context",
        "It reads the start method from the private attribute `_mp_context`.",
    ),
    Exemption(
        "*.test_traceback",
        "It wants the cause of a job's error to be of the private class `_RemoteTraceback`; here it is a "
        "`RemoteTraceback`, with the same text.",
    ),
    Exemption(
        "*.test_python_finalization_error",
        "It replaces a private function of `threading` and forbids the second thread, which is the queue's feeder "
        "there; here that one is needed to make the engine, or not at all.",
    ),
)

# ---- they assert that one job breaks the pool ------------------------------------------------------------------------

BREAKS = (
    Exemption(
        "*.test_killed_child",
        "It kills a process of the private `_processes` and asserts that the pool is broken by that; here it goes on.",
    ),
    Exemption(
        "*.test_e*_at_task_unpickle",  # an error, an exit; after a crash the job is lost, a BrokenProcessPool
        "It asserts that an argument that cannot be unpickled breaks the pool; here that job fails with the "
        "argument's own exception.",
    ),
    Exemption(
        "*.test_*_during_result_unpickle_in_result_handler",
        "It asserts that a result that cannot be unpickled breaks the pool; here that job fails with the result's own "
        "exception.",
    ),
)

# ---- they assert a limit of ProcessPoolExecutor ----------------------------------------------------------------------

LIMITS = (
    Exemption(
        "ProcessPoolFork[!s]*.test_max_tasks_per_child",
        "It asserts that `max_tasks_per_child` is refused under fork; here it works.",
    ),
    Exemption(
        "*.test_cancel_futures",
        "It asserts that `shutdown(cancel_futures=True)` leaves some jobs to run though no worker has begun one, for "
        "ProcessPoolExecutor cannot call back what is in its queue; here all that have not begun are cancelled.",
        may_pass=True,  # a worker may have begun one
    ),
    Exemption(
        "*.test_submit_after_interpreter_shutdown",
        "It looks for the words `RuntimeError: cannot schedule new futures` in a traceback; here they are "
        "`EngineClosed: cannot schedule new futures`, which is a RuntimeError.",
    ),
)

EXEMPTIONS = PRIVATE + BREAKS + LIMITS
