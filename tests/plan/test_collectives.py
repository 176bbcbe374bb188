"""The lines of collectives in the text of a program: their bytes, their groups of devices, and what is sent."""

import pytest

from tlx.plan.collectives import of_line, sent_bytes
from tlx.plan.device_groups import groups_of

# Lines that the compilers of an H100 and of a TPU v5e wrote for a step with `fsdp`, without their ends.
GATHER = (
    "  %s = ((f32[512,1024]{1,0}, f32[98,4096]{1,0}), (f32[4096,1024]{1,0}, f32[784,4096]{1,0})) all-gather-start"
    "(%param.8, %param.10), channel_id=1, replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={0}"
)
SCATTER = (
    "  %s = ((f32[784,4096]{1,0}, f32[4096,1024]{1,0}), (f32[98,4096]{1,0}, f32[512,1024]{1,0})) reduce-scatter-start"
    "(%get-tuple-element.17.0, %get-tuple-element.14.0), channel_id=13, "
    "replica_groups=mesh['axis_0'=8,'axis_1'=1,'axis_2'=2], device_ids=([2,8]T(1,0)) {'axis_0'}, dimensions={0}"
)
PERMUTE = (
    "  %s = (f32[36,4096]{1,0:T(8,128)S(1)}, f32[36,4096]{1,0:T(8,128)S(1)}, u32[]{:S(2)}, u32[]{:S(2)}) "
    "collective-permute-start(%slice.3), channel_id=1, source_target_pairs={{0,1},{1,2},{4,5}}, backend_config={}"
)
REDUCE = (
    "  %s = (f32[8]{0}, f32[4]{0}) all-reduce-start(%a, %b), channel_id=3, "
    "replica_groups=mesh['axis_0'=8,'axis_1'=1,'axis_2'=2], device_ids=([2,8]T(1,0)) {'axis_2'}"
)
ONE = "  %s = (f32[1024,1024]{1,0}, f32[128,1024]{1,0}) KIND-start(%a), channel_id=1, replica_groups=[2,8]<=[16]"


@pytest.mark.parametrize(
    ("line", "size", "groups"),
    [
        (GATHER, 4 * (4096 * 1024 + 784 * 4096), (tuple(range(8)),)),
        (SCATTER, 4 * (98 * 4096 + 512 * 1024), (tuple(range(8)), tuple(range(8, 16)))),
        (PERMUTE, 4 * 36 * 4096, ((0, 1), (1, 2), (4, 5))),
        (REDUCE, 4 * 12, tuple((k, k + 8) for k in range(8))),
        *[
            (ONE.replace("KIND", kind), 4 * 128 * 1024, (tuple(range(8)), tuple(range(8, 16))))
            for kind in ("reduce-scatter", "all-to-all", "ragged-all-to-all")
        ],
    ],
)
def test_a_collective_that_is_started_counts_its_outputs_and_no_operand(line, size, groups):
    ((collective, counted),) = of_line(line).items()
    assert counted == size
    assert sorted(map(sorted, collective.groups)) == sorted(map(list, groups))


def test_the_three_forms_of_groups_are_the_same_devices():
    listed = groups_of("replica_groups={{0,2},{1,3},{4,6},{5,7}}")
    assert groups_of("replica_groups=[4,2]<=[2,2,2]T(0,2,1)") == listed
    assert groups_of("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'b'}") == listed
    # A part of an axis.
    assert groups_of("replica_groups=mesh['a'=8] {'a':(2)2}") == listed
    assert groups_of("replica_groups=mesh['a'=4,'b'=2] {'a','b'}") == (tuple(range(8)),)


@pytest.mark.parametrize("nodes", [[8], [4, 4], [1, 1], [8, 4]])
def test_an_all_reduce_sends_as_much_as_its_two_halves(nodes):
    whole = sent_bytes("all-reduce", 2400, nodes)
    n = sum(nodes)
    parts = sent_bytes("reduce-scatter", 2400 // n, nodes), sent_bytes("all-gather", 2400, nodes)
    assert whole.near == pytest.approx(sum(part.near for part in parts))
    assert whole.far == pytest.approx(sum(part.far for part in parts))
    # A ring over all devices has the same sum.
    assert sum(whole) == pytest.approx(2 * (n - 1) / n * 2400)
    assert sum(sent_bytes("all-to-all", 2400, nodes)) == pytest.approx((n - 1) / n * 2400)
