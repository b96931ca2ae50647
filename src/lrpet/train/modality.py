"""How a batch meets a network: images are its one argument, windows of tokens go in by name."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from lrpet.train.measure import Score


class Modality(Protocol):
    """What differs between images and text where networks are trained and measured."""

    @property
    def item(self) -> str:
        """What a batch consists of, in the singular."""
        ...

    @property
    def counted(self) -> str:
        """What speed is counted in, in the plural."""
        ...

    @property
    def timed_batch(self) -> int:
        """How many items the larger batch has whose latency is in the summary."""
        ...

    @property
    def energy_transfer(self) -> bool:
        """Whether projections hand energy over unless the options say otherwise."""
        ...

    def arguments(self, inputs: Tensor) -> Any:
        """Return what a forward pass takes, in the form that `lrpet.plan` knows."""
        ...

    def logits(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Return a number for each class, in dimension 1; the other dimensions are those of the labels."""
        ...

    def figures(self, part: str, score: Score | None) -> dict[str, float | None]:
        """Return {name: number} of what a log or a summary says of a score on a part of the data; None where there is none."""
        ...

    def shown(self, score: Score) -> dict[str, str]:
        """Return {label: number} of a score, as the terminal shows it."""
        ...


class _Images:
    """Images (batch, channels, height, width), with a class each."""

    item, counted, timed_batch, energy_transfer = "image", "images", 64, True

    def arguments(self, inputs: Tensor) -> Tensor:
        return inputs

    def logits(self, network: nn.Module, inputs: Tensor) -> Tensor:
        logits: Tensor = network(inputs)
        return logits

    def figures(self, part: str, score: Score | None) -> dict[str, float | None]:
        return {f"{part}_accuracy": score.accuracy if score else None}

    def shown(self, score: Score) -> dict[str, str]:
        return {"loss": f"{score.loss:.3f}", "accuracy": f"{score.accuracy:.2%}"}


class _Text:
    """Windows of tokens (batch, length) for a causal language model of transformers; each token's class is the next one."""

    item, counted, timed_batch = "window", "tokens", 8
    energy_transfer = False  # it did harm in language models: RESULTS.md, "Small language models"

    def arguments(self, inputs: Tensor) -> dict[str, Any]:
        return {"input_ids": inputs, "use_cache": False}

    def logits(self, network: nn.Module, inputs: Tensor) -> Tensor:
        logits: Tensor = network(**self.arguments(inputs)).logits
        return logits.transpose(1, 2)

    def figures(self, part: str, score: Score | None) -> dict[str, float | None]:
        return {
            f"{part}_loss": score.loss if score else None,
            f"{part}_perplexity": score.perplexity if score else None,
            f"{part}_accuracy": score.accuracy if score else None,
        }

    def shown(self, score: Score) -> dict[str, str]:
        return {**IMAGES.shown(score), "perplexity": f"{score.perplexity:.2f}"}


IMAGES: Modality = _Images()
TEXT: Modality = _Text()


def modality_of(data: str) -> Modality:
    """Return the modality of the data set called `data`."""
    return TEXT if data.startswith("text:") else IMAGES
