"""What a worker runs for joblib. Of ours it imports nothing else, for every worker pays for that."""

from __future__ import annotations

from typing import Any

from joblib.parallel import BACKENDS, register_parallel_backend


def joblib_batch(batch: Any) -> Any:
    """Run a batch."""
    return batch()


def _make_backend(**options: Any) -> Any:
    from mpengine.adapters.joblib import MpengineBackend

    return MpengineBackend(**options)


# A task may name the backend as the program does, which has imported it.
if "mpengine" not in BACKENDS:
    register_parallel_backend("mpengine", _make_backend)
