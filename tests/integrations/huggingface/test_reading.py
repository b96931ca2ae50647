"""What is not saved, what is not read, and what readers without lrpet are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import lrpet
from hub import hub
from lrpet.integrations.huggingface import LrpetConfig, from_pretrained
from tiny_transformers import TOKENS, assert_equal, compacted, dense, pairs

CAUSAL = transformers.AutoModelForCausalLM
EARLIER = Path(__file__).parent / "earlier"


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    compact = compacted("gpt2")
    fast: Any = lrpet.optimize(compact, TOKENS)
    with pytest.raises(ValueError, match="save the compact network, and optimise what"):
        fast.save_pretrained(tmp_path / "fast")
    first = pairs(compact)[0]
    with pytest.warns(UserWarning, match="factorize cuts energy"):
        twice: Any = lrpet.factorize(compact, lrpet.plan(compact, TOKENS, ranks={f"{first}.1": 2}))
    with pytest.raises(ValueError, match=r"factor pair that the plan of this GPT2LMHeadModel does not know.*twice"):
        twice.save_pretrained(tmp_path / "twice")
    assert not list(tmp_path.iterdir())


def test_a_plan_and_weights_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    compact = compacted("gpt2")
    dense("gpt2").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="its weights are those of a dense model"):
        CAUSAL.from_pretrained(tmp_path, config=compact.config)
    with pytest.raises(ValueError, match="cannot factorise a dense one while it is loaded"):
        CAUSAL.from_pretrained(tmp_path, quantization_config=LrpetConfig(compact.lrpet_plan))


def test_a_plan_without_a_layer_that_was_factorised_is_refused(tmp_path: Path) -> None:
    compact = compacted("llama")
    compact.save_pretrained(tmp_path)
    first = pairs(compact)[0]
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    plan = config["quantization_config"]["plan"]
    plan["layers"] = [layer for layer in plan["layers"] if layer["name"] != first]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=f"two factors of '{first}', which the plan in config.json leaves dense"):
        CAUSAL.from_pretrained(tmp_path)


def test_folders_of_earlier_versions(tmp_path: Path) -> None:
    """Written by lrpet 0.1.0, whose `save_pretrained` put lrpet.json beside the config and wrote no generation config."""
    loaded = from_pretrained(EARLIER / "gpt2")
    assert pairs(loaded)
    tokens = torch.tensor(json.loads((EARLIER / "tokens.json").read_text(encoding="utf-8")))
    assert torch.equal(loaded.generate(tokens[:, :8], max_new_tokens=6, do_sample=False, pad_token_id=0), tokens)
    assert loaded.generation_config.use_cache
    assert from_pretrained(EARLIER / "gpt2", dtype=torch.bfloat16, device_map="cpu").dtype == torch.bfloat16
    loaded.save_pretrained(tmp_path)
    assert_equal(CAUSAL.from_pretrained(tmp_path), loaded)
    assert_equal(from_pretrained(tmp_path), loaded)


def test_the_card_says_how_to_load(tmp_path: Path) -> None:
    compact = compacted("gpt2")
    compact.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "library_name: transformers\ntags: [lrpet, low-rank, compact]" in card
    assert (
        "import lrpet.integrations.huggingface  # pip install lrpet\nfrom transformers import GPT2LMHeadModel" in card
    )
    assert str(compact.lrpet_plan) in card
    other = lrpet.compress(dense("gpt2"), TOKENS, macs=0.8, multiple_of=1)
    other.save_pretrained(tmp_path)  # type: ignore[operator]
    assert str(other.lrpet_plan) in (tmp_path / "README.md").read_text(encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="a folder of transformers is loaded by its from_pretrained"):
        lrpet.load(tmp_path, dense("gpt2"))
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    compact.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine"


WITHOUT_AND_WITH = """
import json, sys, transformers
from transformers import AutoModelForCausalLM

def told(name):
    try:
        AutoModelForCausalLM.from_pretrained(name)
    except Exception as error:
        return str(error)

found = {"folder": told(sys.argv[1]), "hub": told("ann/read")}
import lrpet
from tiny_transformers import compacted, logits
found["imported"] = [name for name in sys.modules if name.startswith("lrpet.integrations")]
compact = compacted("gpt2")
compact.save_pretrained(sys.argv[2])
compact.push_to_hub("ann/pushed", max_shard_size="20KB")
loaded = AutoModelForCausalLM.from_pretrained("ann/pushed")
found["difference"] = (logits(loaded, "gpt2") - logits(compact, "gpt2")).abs().max().item()
print(json.dumps(found))
"""


def test_readers_without_lrpet_writers_without_the_integration_and_the_hub(tmp_path: Path) -> None:
    """In a process of its own: it loads before it imports lrpet, and then writes without `lrpet.integrations`."""
    compact = compacted("gpt2")
    compact.save_pretrained(tmp_path / "hub" / "ann" / "read")
    paths = os.pathsep.join([str(Path(lrpet.__file__).parents[1]), str(Path(__file__).parents[2])])
    folders = [str(tmp_path / "hub" / "ann" / "read"), str(tmp_path / "written")]
    with hub(tmp_path / "hub") as address:
        environment = {
            "PYTHONPATH": paths,
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_TOKEN": "ann",
            "OMP_NUM_THREADS": "1",  # as here, so that products are summed in one order
        }
        ran = subprocess.run(
            [sys.executable, "-c", WITHOUT_AND_WITH, *folders],
            env={**os.environ, **environment, "HF_HUB_OFFLINE": "0"},
            capture_output=True,
            text=True,
        )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    advice = "pip install lrpet, then import lrpet.integrations.huggingface before from_pretrained"
    assert advice in found["folder"]
    assert advice in found["hub"]
    assert found["imported"] == []
    assert found["difference"] == 0.0
    pushed = tmp_path / "hub" / "ann" / "pushed"
    assert len(list(pushed.glob("model-*.safetensors"))) > 1
    card = (pushed / "README.md").read_text(encoding="utf-8")
    assert "- lrpet\n" in card
    assert str(compact.lrpet_plan) in card
    for folder in (pushed, tmp_path / "written"):
        assert_equal(CAUSAL.from_pretrained(folder), compact)
