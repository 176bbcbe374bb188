"""Plan runs and studies for chips that this machine does not have: what fits, how long it takes at least, what it
costs."""

from tlx.plan.chips import Chip, read_chips
from tlx.plan.planning import Planner, overview
from tlx.plan.studies import plan_study
from tlx.plan.sweep import parse_sweep, plan_sweep
from tlx.plan.targets import Target, parse_target
