"""Choose how repeated layers run: as one loop, or each compiled separately."""

from tlx.models.repeated import repeated_runs
from tlx.training.state import Parts
from tlx.types import Stage, Variables

LAYERS = ("auto", "loop", "unrolled")
# The platforms on which a loop was measured to pay (docs/decisions/layers-in-a-loop.md), and the layers it takes there.
PAYS = ("tpu",)
DEEP = 6


def choose_layers(layers: str, parts: Parts, variables: Variables, platform: str) -> tuple[str, str]:
    """Choose how the repeated layers of a step run.

    Args:
        layers: The choice of the user: "auto", "loop" or "unrolled".
        parts: The static half of the step.
        variables: The parameters and statistics, with those that a tuning inserted, or their shapes.
        platform: The platform for which the step is compiled: "cpu", "gpu" or "tpu".

    Returns:
        "loop" or "unrolled", and a line that says so; an empty line where there is no choice, or where it is the usual
        one.
    """
    longest = longest_run(parts, variables)
    if layers == "unrolled" or (layers == "auto" and len(longest) < DEEP):
        return "unrolled", ""
    if len(longest) < 2:
        return "unrolled", "layers: no two neighbours have one form, so each is compiled separately"
    names = f"{len(longest)} layers from {longest[0].name} to {longest[-1].name}"
    if layers == "loop" or platform in PAYS:
        return "loop", f"layers: {names} run as one loop"
    return "unrolled", ""


def longest_run(parts: Parts, variables: Variables) -> tuple[Stage, ...]:
    """Return the longest run of stages that one loop can run in this step."""
    marks = parts._replace(layers="loop").loop
    assert marks is not None
    names = [stage.name for stage in parts.model.stages]
    stages = parts.model.stages[0 if parts.start is None else names.index(parts.start) :]
    # The last stage may read the parameters of a tuning beside its own, so it never belongs to a loop.
    runs = repeated_runs(parts.model, variables, stages[:-1], marks)
    return max(runs, key=len, default=())
