"""Misbehaviour, case by case, in every contender's workers: who passes, who is wrong, who hangs.

    command.py ─▶ runner.py: a fresh session for each (case, contender), watched from outside, killed at its bound
                     │ starts                                   ▲ notes and report, on disk
                  program.py, run.py: a user's program ── contenders.py ─▶ workers: misdeeds.py
    verdicts.py: what was seen ─▶ pass, wrong, hang (pure)         table.py: Markdown (pure)

What a case is, and what its user may expect, is data in cases.py.
"""
