"""Methods by name, in a size that fits the sections at hand."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from heclip_lite.cli.command import usage

if TYPE_CHECKING:
    from anndata import AnnData

    from heclip_lite.config import Encoder, Training
    from heclip_lite.methods.recipes import Size

ALIASES = {"heclip": "heclip_recommended"}
CONTROLS = ("mean", "position", "mean_colour", "random_encoder", "shuffled")
NAMES = (
    *("heclip", "heclip_reference_hvg", "heclip_reference_heg", "bleep", "clip", "regression"),
    *("bleep_maps", "clip_maps", "regression_maps", "histosge", "ridge", "kernel_ridge", "knn"),
    *("colour", "average", "heclip_train_harmony"),
)
_FULL = 128  # components and batch where there are spots enough
_SHARE = 4  # else a quarter of the training spots
_SCALES = (2.74, 1.37, 0.69)
_SLACK = 0.8  # a slide may be this much coarser than a scale at which it is looked at


@dataclass(frozen=True)
class Settings:
    """How methods are sized; what is left out follows from the sections."""

    encoder: Annotated[str, typer.Option(help="timm's name of the image encoder, or coral.")] = (
        "resnet10t"
    )
    weights: Annotated[
        str, typer.Option(help="random, pretrained, or a safetensors file; coral brings its own.")
    ] = "random"
    scales: Annotated[
        list[float] | None,
        typer.Option(help="Micrometres per pixel of the feature maps.", show_default=False),
    ] = None
    stain: Annotated[str, typer.Option(help="none, reinhard or macenko.")] = "none"
    components: Annotated[
        int | None, typer.Option(min=2, help="Components of the features.", show_default=False)
    ] = None
    patch_um: Annotated[float, typer.Option(help="Side of a patch, micrometres.")] = 150.0
    patch_px: Annotated[int, typer.Option(min=16, help="Side of a patch, pixels.")] = 64
    members: Annotated[int, typer.Option(min=1, help="Networks that are averaged.")] = 5
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the spots.", show_default=False)
    ] = None
    batch_size: Annotated[
        int | None, typer.Option(min=2, help="Spots per step.", show_default=False)
    ] = None
    learning_rate: Annotated[float, typer.Option(help="Of AdamW.")] = 1e-3
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile networks first, for long trainings on CUDA.")
    ] = False

    @classmethod
    def parameters(cls) -> dict[str, inspect.Parameter]:
        """What the command line takes for it."""
        annotations = inspect.get_annotations(cls, eval_str=True)
        kind = inspect.Parameter.KEYWORD_ONLY
        return {
            f.name: inspect.Parameter(
                f.name, kind, default=f.default, annotation=annotations[f.name]
            )
            for f in fields(cls)
        }

    @classmethod
    def from_options(cls, ctx: typer.Context, **given: Any) -> Self:
        """Keep what was given."""
        return cls(**given)

    def size(self, spots: int, um_per_px: float, *, seed: int, device: str) -> Size:
        """What all methods share.

        Parameters
        ----------
        spots
            Training spots, of the smallest fold.
        um_per_px
            Of the coarsest slide.
        seed, device
            Of all training.
        """
        from heclip_lite import config, runtime
        from heclip_lite.methods import heclip, histosge, recipes

        device = runtime.pick_device(device)
        few = max(2, min(_FULL, spots // _SHARE))
        encoder = self._encoder()
        batch = few if self.batch_size is None else self.batch_size

        def loop(published: Training, *, whole: bool = False) -> Training:
            """A published loop stays whole unless something was chosen or spots are too few."""
            changes: dict[str, Any] = {"seed": seed, "device": device, "compile": self.compile}
            if self.epochs is not None:
                changes["epochs"] = self.epochs
            if self.batch_size is not None or not whole or published.batch_size > spots:
                changes["batch_size"] = min(batch, spots)
            if not whole or self.learning_rate != published.learning_rate:
                changes["learning_rate"] = self.learning_rate
            return replace(published, **changes)

        return recipes.Size(
            maps=config.MapInput(
                encoder,
                um_per_px=self._scales(um_per_px),
                components=few if self.components is None else self.components,
                stain=self.stain,
            ),
            patches=config.PatchInput(encoder, width_um=self.patch_um, size=self.patch_px),
            end_to_end=loop(config.Training(epochs=15)),
            reference=loop(heclip.PUBLISHED_TRAINING, whole=True),
            heads=loop(config.Training(epochs=30)),
            dense=loop(config.Training(epochs=30)),
            dense_reference=loop(histosge.PUBLISHED_TRAINING, whole=True),
            members=self.members,
        )

    def _encoder(self) -> Encoder:
        from heclip_lite import config
        from heclip_lite.features import backbones

        if self.encoder == "coral":
            return backbones.coral_mobilenet()
        return config.Encoder(self.encoder, self.weights)

    def _scales(self, um_per_px: float) -> tuple[float, ...]:
        """Scales that the slides can show: none is much finer than their pixels."""
        if self.scales:
            return tuple(self.scales)
        shown = tuple(scale for scale in _SCALES if scale >= _SLACK * um_per_px)
        return shown if len(shown) >= 2 else (2 * um_per_px, um_per_px)


def check_names(names: Sequence[str], *, controls: bool = False) -> list[str]:
    """Names as the package spells them.

    Raises
    ------
    typer.BadParameter
        If one is unknown, or given twice.
    """
    known = [*NAMES, *CONTROLS] if controls else [*NAMES, "mean", "mean_colour"]
    found = []
    for given in names:
        name = given.replace("-", "_").lower()
        name = next((short for short, long in ALIASES.items() if long == name), name)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known
            raise usage(f"{given!r} is no method. Near names: {', '.join(near)}.", "--method")
        if name in found:
            raise usage(f"{name} is named twice.", "--method")
        found.append(name)
    return found


def build(names: Sequence[str], size: Size) -> dict[str, Any]:
    """Unfitted methods by the names they were given."""
    from heclip_lite.methods import recipes

    there = {**recipes.contestants(size), **recipes.controls(size)}
    there["histosge"] = recipes.histosge(size)
    made = {name: there[ALIASES.get(name, name)] for name in names}
    for method in made.values():
        _on_device(method, size.heads.device)
    return made


def _on_device(method: Any, device: str) -> None:
    """Run the encoder of a method, and of those inside it, on this device."""
    for value in (method, *vars(method).values()):
        if value is not method and hasattr(value, "fit"):
            _on_device(value, device)
        elif isinstance(value, list):
            for inner in value:
                if hasattr(inner, "fit"):
                    _on_device(inner, device)
    if hasattr(method, "device"):
        method.device = device


def coarsest(all_sections: Sequence[AnnData]) -> float:
    """Micrometres per pixel of the coarsest slide."""
    from heclip_lite.data.sections import um_per_px

    return max(um_per_px(section) for section in all_sections)
