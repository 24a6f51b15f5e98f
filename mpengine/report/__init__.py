"""What a run came to, for people: numbers folded from outcomes, and how they are shown.

``failures`` and ``summary`` are pure and import nothing but Python; ``render`` and ``progress`` bring rich.
"""
