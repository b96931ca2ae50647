"""The loops that look for faults: a few cases of each, and that they would find some."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmarks.faults.damage import changed, damaged
from benchmarks.faults.journal import Journal
from benchmarks.faults.verdicts import Verdict, summed

ROOT = Path(__file__).parents[2]
#: Three cases of every loop. Then a writer that does not wait for the disk, which a power cut has to find out.
SCRIPT = """
import json, sys
from benchmarks.faults import power_cuts
from benchmarks.faults.__main__ import main
from benchmarks.faults.forks import Limits
from lrpet.compact import write

status = main([sys.argv[1], "--count", "3"])
write.synced = lambda path: None
print(json.dumps({"status": status, "careless": power_cuts.loop(Limits(count=3))["simulated"]["wrong"]}))
"""


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the loops wrote to their file, and what the script said at its end."""
    output = tmp_path_factory.mktemp("faults") / "faults.json"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(output)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text()), json.loads(done.stdout.splitlines()[-1])


def test_every_loop_goes_through_its_cases_and_finds_nothing(looked: tuple[dict[str, Any], dict[str, Any]]) -> None:
    results, said = looked
    assert results.keys() >= {"command", "commit", "hardware", "versions", "seed", "loops"}
    assert list(results["loops"]) == [
        "kills", "operations", "full-disk", "power-cuts", "damaged-files", "hostile-files", "extreme-numbers", "together",
    ]  # fmt: skip
    assert {name: loop["told"] for name, loop in results["loops"].items() if loop.get("wrong")} == {}
    assert all(loop["passed"] for loop in results["loops"].values())
    assert all(loop["faults"] >= 2 for loop in results["loops"].values())
    assert said["status"] == 0


def test_a_writer_that_does_not_wait_for_the_disk_is_found(looked: tuple[dict[str, Any], dict[str, Any]]) -> None:
    assert looked[1]["careless"] > 0


def test_one_wrong_case_fails_a_loop() -> None:
    right, wrong = Verdict("a", count=2, notes=["x"]).plain(), Verdict("b", ["not as it should be"]).plain()
    found = summed([right, wrong])
    assert (found["faults"], found["wrong"], found["passed"], found["notes"]) == (3, 1, False, {"x": 1})
    assert found["told"] == [{"case": "b", "wrong": ["not as it should be"]}]
    assert not summed([])["passed"]


def test_a_cut_leaves_what_was_synced(tmp_path: Path) -> None:
    folder = tmp_path / "before"
    folder.mkdir()
    journal = Journal(folder)
    for name in ("kept", "lost"):
        (folder / name).write_text(name)
    journal.note("os.fsync", folder / "kept")
    (folder / "kept").rename(folder / "renamed")
    journal.leave(tmp_path / "late", late=True)
    journal.leave(tmp_path / "early", late=False)
    assert {path.name: path.read_text() for path in (tmp_path / "late").iterdir()} == {"renamed": "kept", "lost": ""}
    assert {path.name: path.read_text() for path in (tmp_path / "early").iterdir()} == {"kept": "kept", "lost": ""}


def test_damage_follows_from_the_seed_alone(tmp_path: Path) -> None:
    """One file in fifty is removed, and all others are changed."""
    path, content, found = tmp_path / "a.json", b'{"x": [1, {"y": null}]}', []
    for _ in range(2):
        for seed in range(50):
            path.write_bytes(content)
            said = damaged(tmp_path, ["a.json"], Random(seed))
            found.append((said, path.read_bytes() if path.exists() else None))
    assert found[:50] == found[50:]
    assert len(set(found)) > 25
    assert sum(data == content for _, data in found) < 10
    assert len({json.dumps(changed(json.loads(content), Random(seed))) for seed in range(40)}) > 10
