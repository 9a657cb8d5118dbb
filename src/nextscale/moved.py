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
    "nextscale.caches": ("nextscale.environment",),
    "nextscale.cli.full_size": ("nextscale.cli.bench",),
    "nextscale.data.labels": ("nextscale.data.columns",),
    "nextscale.data.transform": ("nextscale.data.decode",),
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
    "nextscale.evaluation.plots": (
        "nextscale.plots",
        "nextscale.bench.speed",
        "nextscale.bench.full_size",
        "nextscale.evaluation.reconstruction",
        "nextscale.evaluation.sweep",
    ),
    "nextscale.evaluation.published": ("nextscale.bench.model_comparison",),
    "nextscale.evaluation.real": ("nextscale.evaluation.reference",),
    "nextscale.evaluation.rivals": ("nextscale.bench.model_comparison",),
    "nextscale.evaluation.roofline": ("nextscale.bench.cost",),
    "nextscale.evaluation.sets": ("nextscale.evaluation.metrics",),
    "nextscale.evaluation.sheets": ("nextscale.evaluation.generation", "nextscale.evaluation.image_sets"),
    "nextscale.evaluation.speed": ("nextscale.bench.speed", "nextscale.bench.machine"),
    "nextscale.extras": ("nextscale.errors",),
    "nextscale.families.table": ("nextscale.families",),
    "nextscale.generation": ("nextscale.pipeline",),
    "nextscale.models": (),
    "nextscale.models.config": ("nextscale.families.config",),
    "nextscale.models.dit": ("nextscale.families.dit",),
    "nextscale.models.families": ("nextscale.families",),
    "nextscale.models.maskgit": ("nextscale.families.maskgit",),
    "nextscale.models.raster": ("nextscale.families.raster",),
    "nextscale.models.rq": ("nextscale.families.rq",),
    "nextscale.models.transformer": ("nextscale.nn.transformer",),
    "nextscale.models.var": ("nextscale.families.var",),
    "nextscale.nn.backbone": ("nextscale.nn.perceptual",),
    "nextscale.nn.normalise": ("nextscale.nn.conv",),
    "nextscale.presets": ("nextscale.families.config", "nextscale.tokenizer.config", "nextscale.config"),
    "nextscale.quiet": ("nextscale.environment",),
    "nextscale.sampling.diffusion": ("nextscale.families.dit",),
    "nextscale.sampling.families": (),
    "nextscale.sampling.filters": ("nextscale.sampling.draw",),
    "nextscale.sampling.judges": ("nextscale.sampling.rejection",),
    "nextscale.sampling.masked": ("nextscale.families.maskgit", "nextscale.sampling.passes"),
    "nextscale.sampling.teacher_forcing": ("nextscale.sampling.likelihood",),
    "nextscale.sampling.token_by_token": ("nextscale.families.raster", "nextscale.families.rq"),
    "nextscale.scaling.plots": ("nextscale.scaling.fits",),
    "nextscale.scaling.report": ("nextscale.scaling.fits",),
    "nextscale.server.admission": ("nextscale.server.queues",),
    "nextscale.server.batcher": ("nextscale.server.queues",),
    "nextscale.server.metrics": ("nextscale.server.middleware",),
    "nextscale.server.orders": ("nextscale.server.jobs",),
    "nextscale.server.streaming": ("nextscale.server.app",),
    "nextscale.server.uploads": ("nextscale.server.forms", "nextscale.server.app"),
    "nextscale.server.worker": ("nextscale.server.local",),
    "nextscale.studio.buttons": (),
    "nextscale.studio.easel": ("nextscale.studio.components",),
    "nextscale.studio.errors": ("nextscale.studio.events", "nextscale.studio.jobs"),
    "nextscale.studio.inspect_tab": ("nextscale.studio.inspection",),
    "nextscale.studio.pace": ("nextscale.studio.pictures",),
    "nextscale.studio.place": ("nextscale.studio.desk",),
    "nextscale.studio.plots": ("nextscale.studio.inspection",),
    "nextscale.studio.region_preview": ("nextscale.studio.pictures",),
    "nextscale.studio.uploads": ("nextscale.studio.components",),
    "nextscale.threads": ("nextscale.environment",),
    "nextscale.tokenizer.usage": ("nextscale.tokenizer.quantizer",),
    "nextscale.training.distributed": ("nextscale.training.parallel",),
    "nextscale.training.families": ("nextscale.training.config",),
    "nextscale.training.metrics": ("nextscale.training.run",),
    "nextscale.training.objective": (
        "nextscale.families.base",
        "nextscale.training.stage2",
        "nextscale.training.heldout",
    ),
    "nextscale.training.perceptual": ("nextscale.nn.perceptual",),
    "nextscale.training.reconstruction": ("nextscale.training.heldout",),
    "nextscale.training.record": ("nextscale.training.run",),
    "nextscale.training.sharding": ("nextscale.training.parallel",),
    "nextscale.training.split": ("nextscale.training.images",),
    "nextscale.training.tokenizer": ("nextscale.training.stage1",),
    "nextscale.training.transformer": ("nextscale.training.stage2",),
}
"""Old name of a module -> where its names are now, in the order in which they are looked up."""


class MovedModules(MetaPathFinder, Loader):
    """Finds the modules of `MOVED` when nothing else does; each of their names is looked up when it is asked for."""

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
