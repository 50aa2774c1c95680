"""Describes the progress of a study in a few lines."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from scaled_sgd.core.text import escaped
from scaled_sgd.study.execution.jobs import FOLDER, Job, jobs
from scaled_sgd.study.folder import State, StudyFolder

_SHOWN = 10
"""Largest number of failed runs, and of failed jobs, that are listed."""


def describe(folder: StudyFolder) -> str:
    """Counts over all runs and for each value of each axis, and the reasons of failed runs."""
    plan = folder.planned()
    states = {entry["id"]: folder.state(entry["id"]) for entry in plan}
    text = [f"{escaped(str(folder.path))}: {len(states)} runs, {_counts(states.values())}"]
    for axis in dict.fromkeys(name for entry in plan for name in entry["axes"]):
        for value in dict.fromkeys(str(entry["axes"].get(axis)) for entry in plan):
            chosen = {e["id"]: states[e["id"]] for e in plan if str(e["axes"].get(axis)) == value}
            text.append(f"  {f'{axis} {value}':<40} {_counts(chosen.values())}")
    failed = [run for run, state in states.items() if state == State.FAILED]
    text += [f"  {run} failed: {folder.error(run)}" for run in failed[:_SHOWN]]
    if len(failed) > _SHOWN:
        text.append(f"  and {len(failed) - _SHOWN} more")
    return "\n".join([*text, *_jobs(jobs(folder.path / FOLDER))])


def _jobs(found: Sequence[Job]) -> Iterator[str]:
    if found:
        counts = Counter(job.state for job in found)
        yield "jobs: " + ", ".join(f"{count} {state}" for state, count in counts.items())
    for job in [job for job in found if job.state != "ended"][-_SHOWN:]:
        yield f"  {job.id} {job.state}" + (f": {job.error}" if job.error else "")


def _counts(states: Iterable[State]) -> str:
    counts = Counter(states)
    return ", ".join(f"{counts[state]} {state}" for state in State if counts[state]) or "none"
