"""What a run came to, for people: numbers folded from outcomes, and how they are shown.

``failures`` and ``summary`` are pure and import nothing but Python. With rich: ``render`` shows a summary, ``live`` how
things stand at the moment, and ``display`` draws that while jobs run, together with what they print.

``observer``, ``trace`` and ``metrics`` hold the observers `Report`, `Trace` and `Metrics`. Below them, all pure:
``tally`` and ``worktime`` count and measure from events, ``record`` is what a report remembers, ``charts`` and ``page``
show it.
"""
