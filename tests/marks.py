"""Marks for tests. Not in `support`, which the jobs of tests import: pytest takes a worker a tenth of a second."""

import os

import pytest

needs_dev_shm = pytest.mark.skipif(
    not os.access("/dev/shm", os.W_OK),
    reason="multiprocessing's own locks and shared memory have names in /dev/shm, which is read-only here",
)
