"""Text encoders of `transformers` as they are: a model of prompts reads the features of their tokens.

Weights come from safetensors alone, and no code comes with them.
Shapes: B prompts, T tokens, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextscale.errors import one_line, require
from nextscale.files import complete_file
from nextscale.prompts import tell_left_out

TEXT_MODELS = {"clip": "CLIPTextModel", "siglip": "SiglipTextModel", "siglip2": "Siglip2TextModel"}
"""Classes of the text half of models of images and text, by their `model_type`."""
WITHOUT_MASK = ("siglip", "siglip2")
"""Networks that were trained with padding in sight."""
AT_ONCE = 64
"""Captions that are encoded at once."""


class FrozenEncoder:
    """A tokenizer and a network, and features of captions that are kept, in float16."""

    def __init__(self, name: str, network: Any, tokenizer: Any) -> None:
        self.name, self.network, self.tokenizer = name, network.eval().requires_grad_(False), tokenizer
        self.rows: dict[str, int] = {}
        self.stored: tuple[Tensor, Tensor] | None = None

    @property
    def features(self) -> int:
        """Channels of a token, F."""
        return int(self.network.config.hidden_size)

    def encoded(self, prompts: Sequence[str], tokens: int, *, tell: bool = False) -> tuple[Tensor, Tensor]:
        """Features (B, T, F) float16 and which tokens are the prompts', (B, T) bool; none of them of an empty prompt.

        With `tell`, as for drawing, each prompt is encoded by itself, for others beside it would change the last
        digits, and a line is logged for each that is cut. Raises ValueError for more tokens than the network reads.
        """
        most = int(getattr(self.network.config, "max_position_embeddings", tokens))
        if tokens > most:
            raise ValueError(f"text encoder {self.name}: reads at most {most} tokens, got --text-tokens {tokens}")
        kept = self.stored is not None and self.stored[1].shape[1] == tokens
        if self.stored is not None and kept and all(prompt in self.rows for prompt in prompts):
            rows = torch.tensor([self.rows[prompt] for prompt in prompts])
            return self.stored[0][rows], self.stored[1][rows]
        size = 1 if tell else AT_ONCE
        parts = [self._computed(prompts[i : i + size], tokens, tell) for i in range(0, len(prompts), size)]
        features, masks = zip(*parts, strict=True)
        return torch.cat(features), torch.cat(masks)

    @torch.no_grad()
    def _computed(self, prompts: Sequence[str], tokens: int, tell: bool) -> tuple[Tensor, Tensor]:
        texts = [prompt.replace("\0", " ").encode("utf-8", errors="replace").decode() for prompt in prompts]
        if tell:
            for prompt, ids in zip(texts, self.tokenizer(texts)["input_ids"], strict=True):
                tell_left_out(prompt, len(ids), tokens)
        options = {"padding": "max_length", "max_length": tokens, "truncation": True, "return_attention_mask": True}
        read = self.tokenizer(texts, return_tensors="pt", **options)
        seen = (
            {}
            if self.network.config.model_type.startswith(WITHOUT_MASK)
            else {"attention_mask": read["attention_mask"]}
        )
        states = self.network(input_ids=read["input_ids"], **seen).last_hidden_state
        mask = read.attention_mask.bool() & torch.tensor([bool(text.strip()) for text in texts])[:, None]
        return states.half(), mask

    def remember(self, prompts: Sequence[str], tokens: int, file: Path | None) -> None:
        """Keep the features of all `prompts`, in a file where one is named, from which they are read the next time."""
        from safetensors.torch import load_file, save_file

        if file is not None and file.is_file():
            found = load_file(file)
            self.stored = found["features"], found["mask"]
        else:
            self.stored = self.encoded(prompts, tokens)
            if file is not None:
                with complete_file(file) as partial:
                    save_file({"features": self.stored[0].contiguous(), "mask": self.stored[1].contiguous()}, partial)
        self.rows = {prompt: row for row, prompt in enumerate(prompts)}


@lru_cache(maxsize=2)
def frozen_encoder(name: str) -> FrozenEncoder:
    """An encoder by its hub id or folder. Raises ValueError in one line where it cannot be loaded."""
    require("a text encoder", "transformers")
    import transformers  # pyright: ignore[reportMissingImports]

    transformers.logging.set_verbosity_error()  # it lists the half of the weights that is for images
    transformers.logging.disable_progress_bar()
    try:
        known: dict[str, Any] = {"trust_remote_code": False}
        config = transformers.AutoConfig.from_pretrained(name, **known)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **known)
        kind = getattr(transformers, TEXT_MODELS.get(config.model_type, "AutoModel"))
        network = kind.from_pretrained(name, use_safetensors=True, dtype=torch.float32)
    except (OSError, ValueError, KeyError, ImportError, AttributeError, RuntimeError) as error:
        raise ValueError(f"text encoder {name}: cannot be loaded ({one_line(error)})") from error
    return FrozenEncoder(name, network.get_encoder() if network.config.is_encoder_decoder else network, tokenizer)
