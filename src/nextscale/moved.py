"""Modules that have moved: their old names keep working."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

MOVED: dict[str, tuple[str, ...]] = {
    "nextscale.models": (),
    "nextscale.families.table": ("nextscale.families",),
    "nextscale.models.config": ("nextscale.families.config",),
    "nextscale.models.dit": ("nextscale.families.dit",),
    "nextscale.models.families": ("nextscale.families",),
    "nextscale.models.maskgit": ("nextscale.families.maskgit",),
    "nextscale.models.raster": ("nextscale.families.raster",),
    "nextscale.models.rq": ("nextscale.families.rq",),
    "nextscale.models.transformer": ("nextscale.nn.transformer",),
    "nextscale.models.var": ("nextscale.families.var",),
    "nextscale.caches": ("nextscale.environment",),
    "nextscale.presets": ("nextscale.families.config", "nextscale.tokenizer.config", "nextscale.config"),
    "nextscale.quiet": ("nextscale.environment",),
    "nextscale.threads": ("nextscale.environment",),
    "nextscale.extras": ("nextscale.errors",),
    "nextscale.data.labels": ("nextscale.data.columns",),
    "nextscale.data.transform": ("nextscale.data.decode",),
    "nextscale.sampling.filters": ("nextscale.sampling.draw",),
    "nextscale.sampling.judges": ("nextscale.sampling.rejection",),
    "nextscale.generation": ("nextscale.pipeline",),
    "nextscale.editing.composite": ("nextscale.editing.canvas",),
    "nextscale.editing.outpaint": ("nextscale.editing.enlarge",),
    "nextscale.editing.plan": ("nextscale.editing.regions",),
    "nextscale.evaluation.attention": ("nextscale.studio.inspection",),
    "nextscale.evaluation.classification": ("nextscale.evaluation.comparison", "nextscale.evaluation.metrics"),
    "nextscale.evaluation.cost": ("nextscale.bench.cost",),
    "nextscale.evaluation.frechet": ("nextscale.evaluation.metrics",),
    "nextscale.evaluation.full_size": ("nextscale.bench.full_size", "nextscale.bench.machine"),
    "nextscale.evaluation.inception_score": ("nextscale.evaluation.metrics",),
    "nextscale.evaluation.judges": ("nextscale.sampling.rejection",),
    "nextscale.evaluation.kernel_distance": ("nextscale.evaluation.metrics",),
    "nextscale.evaluation.memory": ("nextscale.bench.machine",),
    "nextscale.evaluation.neighbours": ("nextscale.evaluation.metrics",),
    "nextscale.evaluation.plots": ("nextscale.plots",),
    "nextscale.evaluation.published": ("nextscale.bench.model_comparison",),
    "nextscale.evaluation.real": ("nextscale.evaluation.reference",),
    "nextscale.evaluation.rivals": ("nextscale.bench.model_comparison",),
    "nextscale.evaluation.roofline": ("nextscale.bench.cost",),
    "nextscale.evaluation.sets": ("nextscale.evaluation.metrics",),
    "nextscale.evaluation.speed": ("nextscale.bench.speed", "nextscale.bench.machine"),
    "nextscale.scaling.plots": ("nextscale.scaling.fits",),
    "nextscale.scaling.report": ("nextscale.scaling.fits",),
    "nextscale.nn.backbone": ("nextscale.nn.perceptual",),
    "nextscale.nn.normalise": ("nextscale.nn.conv",),
    "nextscale.tokenizer.usage": ("nextscale.tokenizer.quantizer",),
    "nextscale.training.distributed": ("nextscale.training.parallel",),
    "nextscale.training.metrics": ("nextscale.training.run",),
    "nextscale.training.perceptual": ("nextscale.nn.perceptual",),
    "nextscale.training.record": ("nextscale.training.run",),
    "nextscale.training.sharding": ("nextscale.training.parallel",),
    "nextscale.training.split": ("nextscale.training.images",),
    "nextscale.training.tokenizer": ("nextscale.training.stage1",),
    "nextscale.training.transformer": ("nextscale.training.stage2",),
}
"""Old name of a module -> where its names are now, in the order in which they are looked up."""


class MovedModules(MetaPathFinder, Loader):
    """Finds the modules of `MOVED` when nothing else does, and hands their names through."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self, is_package=True) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)

        def find(name: str) -> Any:
            for home in MOVED[spec.name]:
                if hasattr(import_module(home), name):
                    return getattr(import_module(home), name)
            raise AttributeError(f"module {spec.name!r} has no attribute {name!r}")

        module.__dict__["__getattr__"] = find
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do."""
