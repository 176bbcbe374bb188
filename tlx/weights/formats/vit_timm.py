"""The form of ViT and DeiT in timm."""

from collections.abc import Iterator
from typing import Any

from tlx.models.heads import Head
from tlx.models.names import Name, dense_names, norm_names
from tlx.models.vit import Vit
from tlx.weights.formats.timm import TimmFormat
from tlx.weights.formats.torchvision import families_of

FAMILIES = families_of("vit")
# The width, the number of blocks and the number of heads of each size; the hidden layer has four times the width.
SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
NAMES = (
    "vit_base_patch16_224", "vit_base_patch16_384", "vit_base_patch32_224", "vit_base_patch32_384",
    "vit_base_patch8_224", "vit_tiny_patch16_224", "vit_tiny_patch16_384", "vit_small_patch16_224",
    "vit_small_patch16_384", "vit_small_patch32_224", "vit_small_patch32_384", "vit_large_patch14_224",
    "vit_large_patch16_224", "vit_large_patch16_384", "vit_large_patch32_224", "vit_large_patch32_384",
    "vit_huge_patch14_224", "deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224",
    "deit_base_patch16_384", "deit_tiny_distilled_patch16_224", "deit_small_distilled_patch16_224",
    "deit_base_distilled_patch16_224", "deit_base_distilled_patch16_384",
)  # fmt: skip


def named(name: str) -> Vit:
    """Return the architecture of a name of timm, such as "vit_base_patch16_224"."""
    _, size, *distilled, patch, side = name.split("_")
    width, depth, heads = SIZES[size]
    sizes: dict[str, Any] = {"width": width, "depth": depth, "heads": heads, "mlp": 4 * width, "epsilon": 1e-6}
    family = "deit" if distilled else "vit"
    patch_side = int(patch.removeprefix("patch"))
    return Vit(family=family, distilled=bool(distilled), pooler=False, patch=patch_side, size=int(side), **sizes)


ARCHITECTURES = {name: named(name) for name in NAMES}


class VitTimm(TimmFormat):
    """The form of timm's `VisionTransformer` with a class token."""

    families = FAMILIES.timm
    unused = (r"head(_dist)?\..*",)
    ends = ("patch_embed.proj", "head")
    architectures = ARCHITECTURES

    def poolings(self) -> tuple[str, ...]:
        return ("token",)

    def ends_of(self, config: Vit) -> tuple[str, str | list[str]]:
        first, last = self.ends
        return first, [last, f"{last}_dist"] if config.distilled else last

    def names(self, config: Vit, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        yield Name("stem/patch/kernel", "patch_embed.proj.weight", "convolution")
        yield Name("stem/patch/bias", "patch_embed.proj.bias")
        yield Name("stem/class", "cls_token", squeeze=2)
        yield Name("stem/positions", "pos_embed", squeeze=1)
        if config.distilled:
            yield Name("stem/distillation", "dist_token", squeeze=2)
        for n in range(config.depth):
            ours, foreign = f"blocks/{n:02d}", f"blocks.{n}"
            for number, name in enumerate(("query", "key", "value")):
                for entry in dense_names(f"{ours}/attention/{name}", f"{foreign}.attn.qkv", bias=config.qkv_bias):
                    yield entry._replace(part=(number, 3))
            yield from dense_names(f"{ours}/attention/output", f"{foreign}.attn.proj")
            yield from norm_names(f"{ours}/attention/norm", f"{foreign}.norm1")
            yield from norm_names(f"{ours}/mlp/norm", f"{foreign}.norm2")
            yield from dense_names(f"{ours}/mlp/up", f"{foreign}.mlp.fc1")
            yield from dense_names(f"{ours}/mlp/down", f"{foreign}.mlp.fc2")
        yield from norm_names("norm", "norm")
        if head is None:
            return
        yield from dense_names("head/output", "head", head=True)
        if config.distilled:
            yield from dense_names("head/distillation", "head_dist", head=True)
