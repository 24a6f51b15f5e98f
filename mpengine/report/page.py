"""A report's record as one HTML page. Pure. Nothing in the page asks for anything outside it, and it has no script."""

from __future__ import annotations

import string
from collections.abc import Iterable
from functools import cache
from html import escape
from importlib import resources

from mpengine.report import charts
from mpengine.report.charts import seconds, size, text
from mpengine.report.record import MARKS_KEPT, RunRecord
from mpengine.report.worktime import WorkTime, limited_by

_STATUSES = ("succeeded", "failed", "expired", "lost", "cancelled")
_STRAGGLER = 3.0  # times the median: from there on a slow job is one


def page(record: RunRecord, title: str, written: str) -> str:
    """The whole page.

    Args:
        title: A user's text.
        written: When, for people.
    """
    time = record.clock.measured()
    parts = {
        "title": text(title, 200),
        "subtitle": _subtitle(record, time, written),
        "counts": _counts(record),
        "efficiency": f"{100 * time.efficiency:.0f} %",
        "limited": escape(limited_by(time)),
        "shares": _shares(time),
        "efficiency_note": (
            f"Time in jobs ({seconds(time.busy)}) over {_count(time.workers, 'worker')} times {seconds(time.wall)}, "
            f"from the acceptance of the first job to the end of the last."
        ),
        "timeline": _timeline(record),
        "throughput": _throughput(record, time),
        "durations": _durations(record),
        "workers": _workers(record),
        "failures": _failures(record),
        "slowest": _slowest(record),
        "notes": "Times are wall-clock times of whole attempts. Bars, points and rows have tooltips with the figures.",
    }
    return _template().substitute(parts)


@cache
def _template() -> string.Template:
    return string.Template(resources.files("mpengine.report").joinpath("page.html").read_text("utf-8"))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _note(words: str) -> str:
    return f'<p class="note">{words}</p>'


def _subtitle(record: RunRecord, time: WorkTime, written: str) -> str:
    rate = f", {time.jobs / time.wall:,.4g} a second" if time.wall > 0 else ""
    functions = [f"<code>{text(name)}</code> ({count:,})" for name, count in record.names.most_common(3)]
    others = len(record.names) - len(functions)
    if others > 0 or record.other_names:
        functions.append("others")
    of = f" of {', '.join(functions)}" if functions else ""
    return (
        f"{_count(record.finished, 'job')}{of} in {seconds(time.wall)}{rate}. "
        f"Engine {escape(record.state)}; written {escape(written)}."
    )


def _counts(record: RunRecord) -> str:
    tiles = [("accepted", record.accepted, False)]
    tiles += [
        (status, record.statuses[status], status not in ("succeeded", "cancelled"))
        for status in _STATUSES
        if record.statuses[status] or status in ("succeeded", "failed")
    ]
    tiles.append(("retried attempts", record.retried, False))
    unfinished = record.accepted - record.finished
    if unfinished > 0:
        tiles.append(("unfinished", unfinished, False))
    return "\n".join(
        f"<div{' class=' + chr(34) + 'bad' + chr(34) if bad and number else ''}><dt>{name}</dt>"
        f'<dd id="count-{name.replace(" ", "-")}">{number:,}</dd></div>'
        for name, number, bad in tiles
    )


def _shares(time: WorkTime) -> str:
    if time.capacity <= 0:
        return ""
    parts = [
        ("job", "jobs that succeeded", max(0.0, time.busy - time.wasted)),
        ("bad", "attempts that failed", time.wasted),
        ("startup", "start-up and restarts", time.startup + time.restarts),
        ("wait", "no job there yet, or in backoff", time.input + time.backoff),
        ("tail", "no job left", time.tail),
        ("over", "between jobs", time.overhead),
    ]
    legend = "".join(
        f'<li><i class="{kind}"></i>{name} {100 * part / time.capacity:.0f} %</li>' for kind, name, part in parts
    )
    return charts.shares(parts) + f'<ul class="legend">{legend}</ul>'


def _timeline(record: RunRecord) -> str:
    workers = list(record.workers.values())
    if not workers or record.first_at is None:
        return _note("No worker has been seen.")
    start = min(record.first_at, min(worker.started_at for worker in workers))
    merged = sum(worker.timeline.gap >= 0 for worker in workers)
    unmarked = sum(worker.bad - len(worker.marks) for worker in workers)
    notes = ["One row per worker process, by its pid; a cross where one ended other than with exit code 0."]
    if merged:
        notes.append(
            f"Of {_count(merged, 'worker')}, bars that lie close together were merged: they hold all their attempts."
        )
    if unmarked:
        notes.append(f"Marked are the first {MARKS_KEPT} bad attempts of a worker; {unmarked:,} are not.")
    if record.other_workers:
        notes.append(
            f"{_count(record.other_workers, 'more worker')}, with {_count(record.other_attempts, 'attempt')}, "
            f"are not shown."
        )
    legend = (
        '<ul class="legend"><li><i class="startup"></i>start-up</li><li><i class="job"></i>jobs</li>'
        '<li><i class="bad"></i>an attempt ended badly</li></ul>'
    )
    return charts.timeline(workers, start, record.last_at) + legend + _note(" ".join(notes))


def _throughput(record: RunRecord, time: WorkTime) -> str:
    if not record.points.good:
        return _note("No job has finished yet.")
    note = f"Jobs that ended per second, in steps of {seconds(record.points.width)}; those that ended badly in red."
    return charts.throughput(record.points, time.wall) + _note(note)


def _durations(record: RunRecord) -> str:
    durations = record.durations
    if not durations.bins:
        return _note("No job has run yet.")
    figures = ", ".join(
        f"{name} {seconds(value)}"
        for name, value in (
            ("shortest", durations.shortest), ("median", durations.quantile(0.5)),
            ("90 %", durations.quantile(0.9)), ("99 %", durations.quantile(0.99)), ("longest", durations.longest),
        )
    )  # fmt: skip
    note = f"Of the last attempt of each job: {figures}. Median and percentiles are within 6 %."
    return charts.histogram(durations) + _note(note)


def _table(id_: str, heads: Iterable[tuple[str, str]], rows: Iterable[str]) -> str:
    head = "".join(f'<th class="{kind}">{name}</th>' for name, kind in heads)
    return (
        f'<div class="scroll"><table id="{id_}"><thead><tr>{head}</tr></thead><tbody>'
        f"{''.join(rows)}</tbody></table></div>"
    )


def _workers(record: RunRecord) -> str:
    if not record.workers:
        return _note("No worker has been seen.")
    most = max(record.peak_memory, 1)
    rows = []
    for worker in record.workers.values():
        until = record.last_at if worker.ended_at is None else worker.ended_at
        ready_at = until if worker.ready_at is None else worker.ready_at
        alive = max(until - ready_at, 1e-9)
        end = "" if worker.ended_at is None else "not known" if worker.exitcode is None else str(worker.exitcode)
        meter = f'<span class="meter"><i class="job" style="width:{100 * worker.peak_memory / most:.0f}%"></i></span>'
        rows.append(
            f'<tr><td class="n">{worker.pid}</td><td class="n">{worker.attempts:,}</td>'
            f'<td class="n">{worker.bad:,}</td>'
            f'<td class="n">{seconds(worker.busy)}</td><td class="n">{min(100.0, 100 * worker.busy / alive):.0f} %</td>'
            f'<td class="n">{seconds(max(0.0, ready_at - worker.started_at))}</td>'
            f'<td class="n">{size(worker.peak_memory)}</td><td>{meter}</td><td class="n">{end}</td></tr>'
        )
    heads = [
        ("pid", "n"), ("attempts", "n"), ("ended badly", "n"), ("in jobs", "n"), ("of its life", "n"),
        ("start-up", "n"), ("peak memory", "n"), ("", ""), ("exit code", "n"),
    ]  # fmt: skip
    note = (
        f"Peak memory is the largest resident size of the process so far; of all workers: {size(record.peak_memory)}."
    )
    return _table("workers", heads, rows) + _note(note)


def _failures(record: RunRecord) -> str:
    if not record.causes:
        return _note("None." if record.finished else "No job has finished yet.")
    out = []
    for number, cause in enumerate(sorted(record.causes.values(), key=lambda cause: (-cause.jobs, -cause.retried))):
        where = f" at <code>{text(cause.where, 300)}</code>" if cause.where else ""
        ids = ", ".join(f"<code>{text(id_)}</code>" for id_ in cause.ids)
        more = " and others" if cause.jobs + cause.retried > len(cause.ids) else ""
        ended = f"{_count(cause.jobs, 'job')} ended so ({escape(cause.status)}). " if cause.jobs else ""
        retried = f"{_count(cause.retried, 'attempt')} that ended so was followed by another. " if cause.retried else ""
        if cause.retried > 1:
            retried = retried.replace(" was ", " were each ")
        trace = f"<pre>{escape(_printable(cause.traceback))}</pre>" if cause.traceback else ""
        out.append(
            f'<details class="cause"{"" if number else " open"}>'  # the most frequent one is there to be read
            f'<summary><span class="count">{cause.jobs + cause.retried:,} ×</span>'
            f"<b>{text(cause.type)}</b>{where} "
            f'<span class="soft">{text(cause.message, 300)}</span></summary><div>'
            f"<p>{ended}{retried}For example {ids}{more}.</p>"
            f"{trace}</div></details>"
        )
    if record.other_failures:
        out.append(
            _note(f"{_count(record.other_failures, 'more attempt')} ended badly for causes that are not listed.")
        )
    return "".join(out)


def _printable(lines: str) -> str:
    return "\n".join(one for one in lines.encode("utf-8", "backslashreplace").decode().replace("\0", "?").splitlines())


def _slowest(record: RunRecord) -> str:
    if not record.slowest:
        return _note("No job has run yet.")
    median = record.durations.quantile(0.5)
    rows = []
    for slow in sorted(record.slowest, reverse=True):
        times = slow.duration / median if median > 0 else 1.0
        shown = f"{times:.1f} ×" if times < 10 else f"{times:,.0f} ×"
        mark = f"<b>{shown}</b>" if times >= _STRAGGLER else shown
        rows.append(
            f'<tr><td class="wide"><code>{text(slow.id)}</code></td>'
            f'<td class="wide"><code>{text(slow.name)}</code></td>'
            f'<td>{escape(slow.status)}</td><td class="n">{slow.pid or ""}</td>'
            f'<td class="n">{seconds(slow.duration)}</td><td class="n">{mark}</td></tr>'
        )
    heads = [
        ("job", ""), ("function", ""), ("ended", ""), ("worker", "n"), ("took", "n"), ("of the median", "n"),
    ]  # fmt: skip
    note = f"The median job took {seconds(median)}. Stragglers, of {_STRAGGLER:g} times that or more, are in bold."
    return _table("slowest", heads, rows) + _note(note)
