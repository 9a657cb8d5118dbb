"""Settings of evaluations; they import no torch, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nextscale.config import require_at_least, require_seed
from nextscale.settings import CaptionColumns, Computing, DataColumns, ScaleFlags

PROTOCOLS = {
    name: {
        "count": 50_000, "features": "inception", "guidance": 1.5, "guided_scales": 0, "top_k": 900, "top_p": 0.96,
        "temperatures": (), "spatial_guidance": (), "refine_steps": 1, "smooth": False,
    }
    for name in ("imagenet256", "imagenet512")
}  # fmt: skip
"""Published protocols: 50 images of each of 1,000 classes."""


@dataclass(frozen=True, kw_only=True)
class GenerationEvaluation(CaptionColumns, DataColumns, ScaleFlags):
    """Settings of `nextscale evaluate generation`."""

    data: str
    "Real images (folder, parquet, WebDataset, hub id), or an .npz or .npy file of images or statistics."
    model: str = "demo"
    "Model whose images are drawn and measured."
    images: str = ""
    "Images to measure instead of a model's: as --data takes them."
    out: str = "out/evaluation"
    "Folder for features, samples and the report; a run that was stopped continues in it."
    count: int = 5000
    "Images of each set, and of the real ones they are compared with."
    sets: int = 1
    "Sets drawn with seeds of their own; their spread is reported."
    seed: int = 1_000_000
    "Seed of the first image."
    features: str = "inception"
    "inception (as FID is defined), or a torchvision classifier such as mobilenet_v2."
    feature_weights: str = ""
    "File with that network's weights, for any number of classes; without it, they are fetched."
    protocol: str = ""
    "Published settings: imagenet256 or imagenet512 (50 images per class, guidance 1.5, top-k 900, top-p 0.96)."
    guidance: float | None = None
    "Guidance at the last scale [default: the model's]"
    smooth: bool = False
    "Soft mixtures of codes."
    batch_size: int = 64
    "Images at once."
    candidates: int = 1
    "Rejection sampling: candidates drawn of each image, the best of which is measured."
    judge: str = "likelihood"
    "Who scores candidates: likelihood (the model itself), a torchvision classifier, or the file of one."
    keep_images: bool = False
    "Keep the images as PNG files under --out."
    npz: str = ""
    "File for the first set's images in seeded random order, as guided-diffusion's evaluator reads them."
    statistics: str = ""
    "File for the real images' statistics (.npz with mu and sigma), to be used as --data later."

    def __post_init__(self) -> None:
        require_at_least(self, 2, "count")
        require_at_least(self, 1, "sets", "batch_size", "candidates")
        require_seed(self.seed, count=self.count * self.sets)
        if self.protocol and self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol {self.protocol!r} is not known; expected one of {', '.join(PROTOCOLS)}")
        if self.npz and self.images.endswith(".npz"):
            raise ValueError(f"{self.images} is an .npz file already; --npz packs other images")

    def settled(self) -> GenerationEvaluation:
        """With the settings of the protocol, where one is named."""
        return replace(self, **PROTOCOLS[self.protocol]) if self.protocol else self


@dataclass(frozen=True, kw_only=True)
class ReconstructionEvaluation(DataColumns, Computing):
    """Settings of `nextscale evaluate reconstruction`."""

    data: str
    "Held-out images: folder, parquet, WebDataset, hub id, .npz of images."
    model: str = "demo"
    "Model, run or tokenizer folder, or a hub id."
    out: str = "out/evaluation-reconstruction"
    "Folder for report.json, the plot and the strips."
    count: int = 5000
    "Images that are reconstructed, and others that they are compared with."
    features: str = "inception"
    "Features of the Frechet distance: inception, a torchvision classifier, or none."
    feature_weights: str = ""
    "File with that network's weights, for any number of classes; without it, they are fetched."
    perceptual: str = "lpips"
    "Perceptual distance: lpips (VGG16), a torchvision backbone, or none."
    perceptual_weights: str = ""
    "File with that network's weights; without it, they are fetched."
    precision: str = "auto"
    "Decoder precision: auto, fp32, bf16, fp16."
    batch_size: int = 32
    "Images at once."
    disturb: float = 0.0
    "Share of the codes of every image that are replaced by near ones, for figures beside the clean ones; 0 is none."
    disturb_codes: int = 100
    "A replaced code becomes a random one of this many nearest others."
    seed: int = 0
    "Seed of the first image's replaced codes."

    def __post_init__(self) -> None:
        require_at_least(self, 2, "count")
        require_at_least(self, 1, "batch_size", "disturb_codes")
        require_seed(self.seed, count=self.count)
        if not 0 <= self.disturb <= 1:
            raise ValueError(f"disturb must be between 0 and 1, got {self.disturb}")


@dataclass(frozen=True, kw_only=True)
class LikelihoodEvaluation(DataColumns, Computing):
    """Settings of `nextscale evaluate likelihood`."""

    data: str
    "Held-out images: folder, parquet, WebDataset, hub id."
    model: str = "demo"
    "Model whose predictions are measured."
    count: int = 5000
    "Images whose tokens are predicted, classes in turn."
    classify: int = 0
    "Images that are classified by the class under which their tokens are likeliest: one pass per class."
    features: str = ""
    "Network for nearest class means beside it, such as mobilenet_v2; the means are of other images."
    feature_weights: str = ""
    "File with that network's weights, for any number of classes; without it, they are fetched."
    batch_size: int = 16
    "Images at once."

    def __post_init__(self) -> None:
        require_at_least(self, 1, "count", "batch_size")
        require_at_least(self, 0, "classify")


@dataclass(frozen=True, kw_only=True)
class TextEvaluation(CaptionColumns, DataColumns, ScaleFlags):
    """Settings of `nextscale evaluate text`."""

    data: str
    "Real images with captions (folder, parquet, WebDataset, hub id), of which some are asked for."
    model: str
    "Model of prompts whose images are drawn and recognised."
    others: str = ""
    "More images with captions that the right ones must be told from: as --data, several with commas between them."
    questions: str = ""
    "JSON file of questions, each a name, and candidates to tell it from [default: captions, among all images]"
    out: str = "out/evaluation-text"
    "Folder for report.json and a picture."
    count: int = 100
    "Captions that are asked for, from all over the data, where no file of questions is given."
    samples: int = 4
    "Images drawn of each prompt; their features are averaged."
    seed: int = 1_000_000
    "Seed of the first image."
    guidance: float | None = None
    "Guidance at the last scale [default: the model's]"
    guidances: tuple[float, ...] = ()
    "Several guidances to compare."
    features: str = "mobilenet_v2"
    "A torchvision classifier, or inception."
    feature_weights: str = ""
    "File with that network's weights, for any number of classes; without it, they are fetched."
    batch_size: int = 64
    "Images at once."

    def __post_init__(self) -> None:
        require_at_least(self, 2, "count")
        require_at_least(self, 1, "samples", "batch_size")
        require_seed(self.seed, count=self.count * self.samples)
        if self.guidance is not None and self.guidances:
            raise ValueError("guidance and guidances name the same setting; give one of them")
