"""The end of runs that train together: the result of each."""

from typing import TYPE_CHECKING, Any

from tlx import processes
from tlx.data.members import members_by_split
from tlx.records import run_directory
from tlx.records.members import member_metrics
from tlx.training.energy import Used
from tlx.training.placement import gathered_state
from tlx.training.precision import with_base
from tlx.training.results import end_message, write_all, write_page

if TYPE_CHECKING:
    from tlx.training.group import RunGroup


def result(group: "RunGroup", n: int, used: Used) -> dict[str, Any] | Exception:
    """Return the result of run n, or the error that ended it; the leader writes it."""
    run, (state, step) = group.runs[n], group.chosen[n]
    if run.failed is not None and not run.finished:
        return run.failed
    # The files hold float32 numbers.
    state = state._replace(frozen=with_base(state.frozen, run.ready.variables.params))
    group.chosen[n] = gathered_state(state), step
    return processes.decided(lambda: write_result(group, n, used))


def write_result(group: "RunGroup", n: int, used: Used) -> dict[str, Any]:
    """Return the result of run n, and write it unless the run was finished before."""
    run, (state, selected) = group.runs[n], group.chosen[n]
    steps = group.step if run.ended is None else run.ended
    if run.finished:
        return run_directory.read(run.path)
    run.calibrate()
    task, members = run.ready.task, members_by_split(run.splits)
    metrics = {
        split: outcome.metrics(task) | member_metrics(outcome, task, members.get(split))
        for split, outcome in run.outcomes.items()
    }
    for split in group.splits.measured:
        if split in metrics:
            run.records.write(steps, {f"{split}/{name}": value for name, value in metrics[split].items()})
    run.records.flush()
    finish: dict[str, Any] = {"clock": group.clock, "steps": steps, "selected": selected}
    finish["metrics"] = {f"{split}/{name}": value for split in metrics for name, value in metrics[split].items()}
    finish["pack"] = {"arms": len(group.runs), "place": n}
    if len(group.runs) > 1:
        finish["pack"]["cells"] = group.checkpoints.cells
    finish["energy"] = used._asdict()
    if run.records.failure is not None:
        raise run.records.failure
    written = write_all(run, state, finish, group.how.leave)
    run.records.finish(written)
    if group.how.leave == "all":
        page = write_page(run.path, run.ready.task) if group.how.test else None
        group.progress.say(end_message(written, run, page))
    return written
