"""What a low-rank language model gains where tokens are generated: prompts read, and tokens decoded with a cache of keys.

    python -m benchmarks.generation OUT.json FOLDER [--sizes NAME …] [--seconds 2] [--prepare]

Half of the multiply-adds of the linears in attention and MLPs go. A prompt of 256 tokens is read at once; a decoding step
takes one token of each text, after 256 of which keys and values are there. Dense and compact networks are timed in turns, in
one race with all runtimes; "optimized" is eager PyTorch with what `lrpet.optimize` returns. Weights are random: they do not
change the time.

ONNX files are kept in FOLDER, and taken from there if they are there: `--prepare` writes them, and compiles, and measures
nothing. Memory is the growth of a fresh process that loads what `save_pretrained` wrote, and generates 16 tokens.
"""

from __future__ import annotations

import copy
import statistics
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn

import lrpet
from benchmarks.script import parser_of, write_json
from lrpet.latency.measure import raced
from lrpet.latency.runtimes import Pass, export, ready, session
from lrpet.layers.inputs import Inputs
from lrpet.layers.observe import observe
from lrpet.train.provenance import provenance

PAST = 256
#: Runtimes with the dtypes that are timed; ONNX Runtime has no bfloat16 products on processors.
RUNTIMES: dict[Any, tuple[torch.dtype, ...]] = {
    "eager": (torch.float32, torch.bfloat16),
    "optimized": (torch.float32,),
    "compile": (torch.float32,),
    "onnxruntime": (torch.float32,),
}
PROJECTIONS = ("*.q_proj", "*.k_proj", "*.v_proj", "*.o_proj", "*.gate_proj", "*.up_proj", "*.down_proj")


class Size(NamedTuple):
    """The size of a Llama."""

    title: str
    width: int
    depth: int
    heads: int
    hidden: int
    tokens: int

    def make(self) -> Any:
        """Make it, with random weights."""
        config = transformers.LlamaConfig(
            vocab_size=self.tokens,
            hidden_size=self.width,
            intermediate_size=self.hidden,
            num_hidden_layers=self.depth,
            num_attention_heads=self.heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=None,
        )
        torch.manual_seed(0)
        model: Any = transformers.LlamaForCausalLM(config)
        return model.eval()


SIZES = {
    "small": Size("4 layers of 256", 256, 4, 4, 688, 256),
    "medium": Size("12 layers of 768", 768, 12, 12, 2048, 32_000),
}


class Case(NamedTuple):
    """What is timed: a prompt of 256 tokens, or one token after 256."""

    phase: str
    batch_size: int

    @property
    def tokens(self) -> int:
        """Return the number of tokens that one pass takes."""
        return self.batch_size * (PAST if self.phase == "prompt" else 1)


CASES = (Case("decode", 1), Case("decode", 8), Case("prompt", 1))


class Step(nn.Module):
    """A language model that takes and returns keys and values as tensors, which every runtime can run.

    Takes tokens of shape (batch, length), and keys and values of every layer, each of shape (batch, heads, past, width of a
    head). Returns the scores of the next token, and keys and values that are longer by the tokens taken.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, tokens: Tensor, past: list[Tensor]) -> list[Tensor]:
        cache: Any = transformers.DynamicCache(config=self.model.config)
        for layer, keys, values in zip(cache.layers, past[::2], past[1::2], strict=bool(past)):
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
        before = past[0].shape[2] if past else 0
        positions = torch.arange(before, before + tokens.shape[1], device=tokens.device)
        found = self.model(tokens, cache=cache, position_ids=positions[None], use_cache=True, logits_to_keep=1)
        return [found.logits, *(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))]


def inputs_of(size: Size, case: Case, dtype: torch.dtype) -> Inputs:
    """Return tokens, and random keys and values where tokens are decoded."""
    random = torch.Generator().manual_seed(0)
    length = PAST if case.phase == "prompt" else 1
    tokens = torch.randint(size.tokens, (case.batch_size, length), generator=random)
    shape = (case.batch_size, size.heads, PAST, size.width // size.heads)
    count = 0 if case.phase == "prompt" else 2 * size.depth
    return Inputs((tokens, [torch.randn(shape, generator=random).to(dtype) for _ in range(count)]), {})


def networks_of(size: Size) -> dict[str, nn.Module]:
    """Return the dense model, and the one whose linears have half of the multiply-adds."""
    dense = size.make()
    example = {"input_ids": torch.zeros(1, PAST, dtype=torch.long)}
    all_of_it = lrpet.plan(dense, example, keep=1.0, include=PROJECTIONS, factorize_all=True)
    linears = sum(layer.macs_dense for layer in all_of_it.layers if layer.rank is not None)
    budget = all_of_it.totals["macs"] - linears / 2
    plan = lrpet.plan(dense, example, macs=budget, include=PROJECTIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weights that are cut off: time does not depend on them
        return {"dense": dense, "compact": lrpet.factorize(dense, plan)}


def passes_of(
    name: str, networks: Mapping[str, nn.Module], case: Case, folder: Path
) -> dict[tuple[str, str, str], Pass]:
    """Return {(network, runtime, dtype): one pass}; ONNX files are taken from the folder, or written there."""
    torch.compiler.reset()
    passes: dict[tuple[str, str, str], Pass] = {}
    for network, model in networks.items():
        for dtype in (torch.float32, torch.bfloat16):
            step = Step(model if dtype == torch.float32 else copy.deepcopy(model).to(dtype))
            inputs = inputs_of(SIZES[name], case, dtype)
            for runtime in (runtime for runtime, dtypes in RUNTIMES.items() if dtype in dtypes):
                key = (network, runtime, str(dtype).removeprefix("torch."))
                if runtime == "onnxruntime":
                    file = folder / f"{name}-{network}-{case.phase}-{case.batch_size}.onnx"
                    if not file.exists():
                        export(step, inputs, file)
                    passes[key] = session(file, inputs, runtime)
                elif runtime == "optimized":
                    passes[key] = ready(lrpet.optimize(step, inputs), inputs, "eager")
                else:
                    passes[key] = ready(step, inputs, runtime)
    return passes


def agreement(passes: Mapping[tuple[str, str, str], Pass]) -> float:
    """Return the largest difference of float32 scores between runtimes, as a fraction of the largest score."""
    worst = 0.0
    for network in ("dense", "compact"):
        scores = [
            torch.as_tensor(run()[0]) for (of, _, dtype), run in passes.items() if (of, dtype) == (network, "float32")
        ]
        worst = max(worst, *(float((each - scores[0]).abs().max() / scores[0].abs().max()) for each in scores[1:]))
    return worst


def rows_of(times: Mapping[tuple[str, str, str], Sequence[float]], cost: float, case: Case) -> list[dict[str, Any]]:
    """Return a row for each runtime and dtype: both networks' milliseconds, and what is realised of the cut."""
    rows = []
    for _, runtime, dtype in (key for key in times if key[0] == "dense"):
        dense, compact = (times[network, runtime, dtype] for network in ("dense", "compact"))
        ratios = [ours / theirs for ours, theirs in zip(compact, dense, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        median = {"dense": statistics.median(dense), "compact": statistics.median(compact)}
        time = median["compact"] / median["dense"]
        rows.append(
            {
                **case._asdict(),
                "runtime": runtime,
                "dtype": dtype,
                "rounds": len(dense),
                "milliseconds": median,
                "tokens_per_second": {name: 1e3 * case.tokens / each for name, each in median.items()},
                "time": time,
                "time_quartiles": [low, high],
                "cost": cost,
                "realised": (1 - time) / (1 - cost),
            }
        )
    return rows


@torch.no_grad()
def measured(name: str, folder: Path, *, seconds: float) -> dict[str, Any]:
    """Return what was measured of one size; nothing but files and compiled code is made where `seconds` is 0."""
    size, networks = SIZES[name], networks_of(SIZES[name])
    rows: list[dict[str, Any]] = []
    errors: list[float] = []
    for case in CASES:
        passes = passes_of(name, networks, case, folder)
        errors.append(agreement(passes))
        if seconds:
            inputs = inputs_of(size, case, torch.float32)
            macs = {network: observe(Step(model), inputs).macs for network, model in networks.items()}
            times: dict[Any, list[float]] = raced(passes, seconds=seconds)  # type: ignore[arg-type]
            rows += rows_of(times, macs["compact"] / macs["dense"], case)
            print(*(f"{name} {row}" for row in rows[-5:]), sep="\n", flush=True)
    params = {network: sum(p.numel() for p in model.parameters()) for network, model in networks.items()}
    found = {"title": size.title, "params": params, "largest_difference": max(errors), "rows": rows}
    return {**found, "memory": _memory(networks, folder / name)} if seconds else found


def _memory(networks: Mapping[str, Any], folder: Path) -> dict[str, dict[str, int]]:
    """Return {network: {dtype: bytes by which a process grows that loads it and generates with it}}."""
    found: dict[str, dict[str, int]] = {}
    for network, model in networks.items():
        model.save_pretrained(folder / network)
        command = [sys.executable, "-m", "benchmarks.generation_memory", str(folder / network)]
        found[network] = {
            dtype: int(
                subprocess.run([*command, dtype], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]
            )
            for dtype in ("float32", "bfloat16")
        }
    return found


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path, help="file of results, such as benchmarks/results/generation.json")
    parser.add_argument("folder", type=Path, help="for ONNX files and saved models")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--seconds", type=float, default=2.0, help="spent on each contender in each case")
    parser.add_argument("--prepare", action="store_true", help="write ONNX files and compile, but measure nothing")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name in options.sizes:
        found[name] = measured(name, options.folder, seconds=0.0 if options.prepare else options.seconds)
        if not options.prepare:
            write_json(
                options.out, {**provenance(), "seed": 0, "seconds": options.seconds, "past": PAST, "sizes": found}
            )


if __name__ == "__main__":
    main()
