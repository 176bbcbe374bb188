"""The costs of models, against published numbers and counts by hand."""

from tlx import models
from tlx.models.costs import cost_of


def test_resnet_50_has_its_published_costs():
    """torchvision states 25,557,032 parameters and 4.089 G multiplications and additions for 224 x 224 pixels.

    It counts products with the zeros around an image, too.
    """
    cost = cost_of(models.ResNet(), 1000)
    assert cost.parameters == 25_557_032
    assert 0.96 < cost.flops / (2 * 4.089e9) < 1
    assert cost.stages == ("stem", *(f"blocks/{n:02d}" for n in range(16)), "pool", "head")


def test_a_layer_counts_a_multiplication_and_an_addition_for_each_weight():
    cost = cost_of(models.Mlp(inputs=(5, 7, 1), widths=(11,)), 3)
    assert cost.parameters == 36 * 11 + 12 * 3
    weights = 35 * 11 + 11 * 3
    # The biases and the activation come on top.
    assert 2 * weights <= cost.flops <= 2 * weights + 4 * (11 + 3)
