"""The sizes of resources that Ray has."""

import pytest

from tlx.study.clusters.ray_tasks import check_size


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("cpu", -1, "at least 0"),
        ("cpu", 1.5, "a whole number above 1, such as 2"),
        ("gpu", 0.00001, r"0, or at least 0\.0001"),
        ("memory", 1e-12, "at least 1 byte"),
        ("tpu", 3, "0, 1, 2, 4 or 8 chips"),
        ("tpu", 0.5, "0, 1, 2, 4 or 8 chips"),
    ],
)
def test_a_size_that_ray_does_not_have_is_refused(name, size, words):
    with pytest.raises(ValueError, match=words):
        check_size(name, size)


@pytest.mark.parametrize(("name", "size"), [("cpu", 0.5), ("cpu", 3), ("gpu", 0), ("memory", 2.5), ("tpu", 4)])
def test_other_sizes_are_those_of_ray(name, size):
    check_size(name, size)
