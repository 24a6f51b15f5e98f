"""`connect`: an engine by the address of where its workers are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpengine.engine import AnyEngine

_KINDS = '"local", "dask://host:port", "ray", "ray://host:port", or a distributed.Client'


def connect(address: Any = "local", **options: Any) -> AnyEngine:
    """An engine whose workers are there.

    Args:
        address: "local": this machine, an `Engine`. "dask://host:port": the workers of that Dask scheduler; also a
            `distributed.Client` that is connected to one. "ray": the Ray cluster this program has joined or can join,
            else one that is started here; "ray://host:port": that one, through its client server.
        options: As those of `Engine`; what a cluster cannot do is refused.

    Raises:
        ValueError, TypeError: The address is none, or an option makes no sense there.
        ImportError: The cluster's package is missing.
        OSError: Nobody answers there.

    Example:
        >>> with connect("local", max_workers=2) as engine:
        ...     list(engine.map(abs, [-1, -2]))
        [1, 2]
    """
    if address == "local":
        from mpengine.engine import Engine

        return Engine(**options)
    from mpengine.cluster.engine import ClusterEngine

    if options.pop("progress", False):
        raise ValueError("progress: an engine on a cluster does not show it; look at `stats()` and `workers()`")
    driver: Any
    if isinstance(address, str) and (address == "ray" or address.startswith("ray://")):
        from mpengine.cluster.on_ray import RayDriver

        driver = RayDriver(None if address == "ray" else address)
    elif not isinstance(address, str) or address.startswith("dask://"):
        from mpengine.cluster.on_dask import DaskDriver

        driver = DaskDriver.to(address)
    else:
        raise ValueError(f"connect: {address!r} is no address of an engine; give {_KINDS}")
    try:
        return ClusterEngine(driver, **options)
    except BaseException:
        driver.close()
        raise
