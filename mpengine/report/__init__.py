"""What a run came to, for people: numbers folded from outcomes, and how they are shown.

``failures`` and ``summary`` are pure and import nothing but Python; ``render`` and ``progress`` bring rich.

``observer``, ``trace`` and ``metrics`` hold the observers `Report`, `Trace` and `Metrics`. Below them, all pure:
``tally`` and ``worktime`` count and measure from events, ``record`` is what a report remembers, ``charts`` and ``page``
show it.
"""
