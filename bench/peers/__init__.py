"""The contenders behind one face: open, put values through a function, make one call, close.

Each is used as its documentation shows it, with the same number of workers. A chunk size is given to those
that are tuned by hand; all others keep their defaults. A peer is imported when it is opened: a measuring
process loads only its own.
"""

from collections.abc import Callable
from importlib.util import find_spec

from bench.peers.bare import BarePeer
from bench.peers.base import Function, Peer
from bench.peers.clusters import DaskPeer, RayPeer
from bench.peers.engine import EnginePeer
from bench.peers.packaged import JoblibPeer, LokyPeer, MpirePeer, PebblePeer
from bench.peers.standard import ExecutorPeer, PoolPeer

__all__ = ["PACKAGES", "PEERS", "Function", "Peer", "is_installed"]

# With the number of workers, a start method (None: the peer's own) and a chunk size (None: the peer's default).
PEERS: dict[str, Callable[[int, str | None, int | None], Peer]] = {
    "engine": EnginePeer,
    "executor": ExecutorPeer,
    "pool": PoolPeer,
    "loky": LokyPeer,
    "joblib": JoblibPeer,
    "mpire": MpirePeer,
    "pebble": PebblePeer,
    "ray": RayPeer,
    "dask": DaskPeer,
    "bare": BarePeer,
}

# What a peer needs that does not come with Python.
PACKAGES = {
    "loky": "loky",
    "joblib": "joblib",
    "mpire": "mpire",
    "pebble": "pebble",
    "ray": "ray",
    "dask": "distributed",
}


def is_installed(peer: str) -> bool:
    """Whether the peer can be opened here; the standard library and this engine always can."""
    return peer not in PACKAGES or find_spec(PACKAGES[peer]) is not None
