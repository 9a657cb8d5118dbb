"""Sample from a folder that `nextscale export onnx` wrote: onnxruntime and numpy, neither torch nor nextscale.

    nextscale export onnx --model demo --out out/onnx
    python examples/onnx_sample.py out/onnx --label maze --seed 0 --out maze.png

Shapes: B images (the second half of them without class), l tokens of a part, C latent channels, V codebook entries.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime


class OnnxModel:
    def __init__(self, folder: Path, options: onnxruntime.SessionOptions | None = None) -> None:
        self.about = json.loads((folder / "sampling.json").read_text())
        names = ("encoder", "transformer", "decoder")
        self.graphs = {name: onnxruntime.InferenceSession(folder / f"{name}.onnx", options) for name in names}
        raw = (folder / "quantizer.safetensors").read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        self.tables = {}
        for name, one in json.loads(raw[8:start]).items():
            begin, end = (start + offset for offset in one["data_offsets"])
            self.tables[name] = np.frombuffer(raw[begin:end], np.float32).reshape(one["shape"])

    def run(self, graph: str, **inputs: np.ndarray) -> list[np.ndarray]:
        return self.graphs[graph].run(None, inputs)

    def add(self, accumulated: np.ndarray, tokens: np.ndarray, scale: int) -> np.ndarray:
        """Accumulated map (B, h w, C) and a scale's tokens (B, l) -> the map with them."""
        number, (height, width) = self.about["phi"][scale], self.about["scales"][-1]
        enlarged = self.tables[f"enlarge.{scale}"] @ self.tables["codebook"][tokens]
        image = np.pad(enlarged.reshape(-1, height, width, enlarged.shape[-1]), ((0, 0), (1, 1), (1, 1), (0, 0)))
        kernel, places = self.tables[f"phi.{number}"], [(y, x) for y in range(3) for x in range(3)]
        convolved = sum(image[:, y : y + height, x : x + width] @ kernel[y, x] for y, x in places)
        return accumulated + convolved.reshape(enlarged.shape) + self.tables[f"phi_bias.{number}"]

    def tokenise(self, images: np.ndarray) -> list[np.ndarray]:
        """Images (B, 3, H, W) in [-1, 1] -> tokens of each scale (B, l)."""
        (rest,), codebook, tokens = self.run("encoder", images=images), self.tables["codebook"], []
        for scale in range(len(self.about["scales"])):
            distances = (codebook**2).sum(axis=1) - 2 * (self.tables[f"reduce.{scale}"] @ rest) @ codebook.T
            tokens.append(distances.argmin(axis=-1))
            rest = -self.add(-rest, tokens[-1], scale)
        return tokens

    def sample(self, label: int, seed: int | None = 0, **settings: float) -> tuple[list[np.ndarray], np.ndarray]:
        """Tokens of each part (1, l) and the image (1, 3, H, W) in [-1, 1]; without a seed the likeliest tokens."""
        about, how = self.about, self.about["sampling"] | settings
        classes = np.array([label, about["unconditional"]][: 2 if how["guidance"] else 1], np.int32)
        cache = np.zeros((len(classes), *about["cache"]), np.float32)
        accumulated = np.zeros((1, np.prod(about["scales"][-1]), about["latent_channels"]), np.float32)
        latents, coarser, drawn = accumulated[:, : about["parts"][0]], None, []
        for part, length in enumerate(about["parts"]):
            inputs = {"classes": classes, "latents": np.repeat(latents, len(classes), axis=0), "cache": cache}
            logits, cache, *_ = self.run("transformer", **inputs)
            strength = np.float32(how["guidance"] * how["ramp"][part])
            logits = (1 + strength) * logits[:1] - strength * logits[-1:]
            away, guided = np.float32(how["spatial_guidance"][part]), logits
            if away:
                logits = logits + away * (logits - self.tables[f"prior.{part}"] @ coarser)
            logits, coarser = kept(logits / np.float32(how["temperature"]), how["top_k"], how["top_p"]), guided
            noise = 0 if seed is None else gumbel_noise(seed, part, length, about["codebook_size"])
            drawn.append((logits + noise).argmax(axis=-1))
            latents = self.tables["codebook"][drawn[-1]]
            if about["read"] == "accumulated":
                accumulated = self.add(accumulated, drawn[-1], part)
                if part + 1 < len(about["parts"]):
                    latents = self.tables[f"reduce.{part + 1}"] @ accumulated
        if about["read"] == "codes":
            accumulated = self.add(accumulated, np.concatenate(drawn, axis=1), 0)
        return drawn, self.run("decoder", accumulated=accumulated)[0]


def kept(logits: np.ndarray, top_k: int, top_p: float) -> np.ndarray:
    """Logits with what top-k and then top-p drop at minus infinity; 0 is off."""
    ordered = -np.sort(-logits, axis=-1)[..., : top_k or None]
    last = ordered[..., -1:]
    if top_p:
        shares = np.exp(ordered - ordered[..., :1])
        before = np.cumsum(shares / shares.sum(axis=-1, keepdims=True), axis=-1)[..., :-1] < top_p
        last = np.take_along_axis(ordered, before.sum(axis=-1, keepdims=True), axis=-1)
    return np.where(logits < last, -np.inf, logits)


def gumbel_noise(seed: int, part: int, length: int, size: int) -> np.ndarray:
    """The noise of an image at a part, (length, size); any other Gumbel noise samples as well."""
    blocks = -(-size // 8)
    words = np.random.Philox(key=[seed, 0], counter=[0, part, 0, 0]).random_raw(4 * length * blocks)
    bits = words.astype("<u8").view("<u4").reshape(length, 8 * blocks)[:, :size] >> 1
    uniform = (bits.astype(np.float32) + np.float32(0.5)) * np.float32(2**-31 - 2**-55)
    return -np.log(-np.log1p(-uniform))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--label", default="0", help="a class by name or number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="sample.png")
    options = parser.parse_args()
    model = OnnxModel(options.folder)
    names = model.about["class_names"]
    label = names.index(options.label) if options.label in names else int(options.label)
    from PIL import Image

    _, (pixels, *_) = model.sample(label, options.seed)
    Image.fromarray(((pixels.transpose(1, 2, 0) + 1) * 127.5).round().astype(np.uint8)).save(options.out)
