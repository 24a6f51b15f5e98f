"""The signals between parent and workers: real-time ones, for SIGUSR1 and SIGUSR2 are the users'."""

from __future__ import annotations

import signal

INTERRUPT_SIGNAL = signal.SIGRTMIN + 8
STACK_SIGNAL = signal.SIGRTMIN + 9
