"""Sets of text: files, their parts, windows of tokens, and batches of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lrpet.train.data.options import BatchOptions
from lrpet.train.data.text import TokenBatches, Tokens, load_text
from runs import save_tokenizer

CPU = torch.device("cpu")


def written(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_a_folder_may_say_its_parts(tmp_path: Path) -> None:
    written(tmp_path / "train", b="second " * 10, a="first " * 10)
    written(tmp_path / "val", c="third " * 10)
    dataset = load_text(f"text:{tmp_path}", context=8)
    assert bytes(dataset.train.stream.tolist()) == b"first " * 10 + b"\0" + b"second " * 10 + b"\0"
    assert bytes(dataset.test.stream.tolist()) == b"third " * 10 + b"\0"
    assert dataset.metadata == {
        "data": f"text:{tmp_path}", "vocabulary": 256, "tokenizer": "bytes", "context": 8,
    }  # fmt: skip


def test_every_twentieth_file_is_of_the_test_part(tmp_path: Path) -> None:
    written(tmp_path / "many", **{f"{i:02}": f"{i:02} says äö. " for i in range(40)})
    dataset = load_text(f"text:{tmp_path / 'many'}", context=8)
    assert bytes(dataset.test.stream.tolist()).decode() == "00 says äö. \x0020 says äö. \x00"
    assert b"00 says" not in bytes(dataset.train.stream.tolist())


def test_one_file_is_divided(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(bytes(range(97, 107)) * 60)
    dataset = load_text(f"text:{path}", context=7)
    whole = torch.cat([dataset.train.stream, dataset.test.stream])
    assert bytes(whole.tolist()) == path.read_bytes() + b"\0"
    assert len(dataset.test.stream) == 601 // 20


def test_the_standard_library_is_at_hand() -> None:
    dataset = load_text("text:stdlib", context=128)
    assert len(dataset.train.stream) > 5_000_000
    assert b"def dataclass(" in bytes(dataset.train.stream.tolist())


def test_a_tokenizer_of_transformers(tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "words", "<end>", "a", "bc", "?")
    written(tmp_path / "train", x="a bc d " * 3)
    written(tmp_path / "test", y="bc a " * 3)
    dataset = load_text(f"text:{tmp_path}", context=2, tokenizer=str(tmp_path / "words"))
    assert dataset.train.stream.tolist() == [1, 2, 3] * 3 + [0]
    assert dataset.vocabulary == 4
    with pytest.raises(ValueError, match="is no folder or name of a tokenizer"):
        load_text(f"text:{tmp_path}", context=2, tokenizer=str(tmp_path / "train"))


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="takes a file or a folder of text"):
        load_text(f"text:{tmp_path / 'nothing'}", context=8)
    with pytest.raises(ValueError, match="holds no files"):
        load_text(f"text:{tmp_path}", context=8)
    (tmp_path / "image").write_bytes(b"plain \xff\xd8")
    with pytest.raises(ValueError, match=r"image is not text in UTF-8 \(byte 6\)"):
        load_text(f"text:{tmp_path}", context=8)
    (tmp_path / "image").write_bytes(b"short")
    with pytest.raises(
        ValueError, match=r"has 6 tokens to train on and 0 to test on: each part needs more than context=8"
    ):
        load_text(f"text:{tmp_path}", context=8)


STREAM = Tokens.of(torch.arange(103, dtype=torch.int32), 10)


def test_targets_are_the_next_tokens_and_scoring_sees_every_window_once() -> None:
    batches = TokenBatches(STREAM, BatchOptions(4), device=CPU, train=False)
    pairs = list(batches)
    assert len(pairs) == len(batches) == 3
    tokens, targets = (torch.cat(each) for each in zip(*pairs, strict=True))
    assert tokens.flatten().tolist() == list(range(100))
    assert torch.equal(targets, tokens + 1)
    assert tokens.dtype == torch.int64


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    batches = TokenBatches(STREAM, BatchOptions(4, seed=3), device=CPU, train=True)
    first = [tokens.tolist() for tokens, _ in batches]
    assert len(first) == len(batches) == 2
    assert all(row == list(range(row[0], row[0] + 10)) for batch in first for row in batch)
    batches.set_epoch(1)
    assert [tokens.tolist() for tokens, _ in batches] != first
    batches.set_epoch(0, done=1)
    assert [tokens.tolist() for tokens, _ in batches] == first[1:]


def test_processes_share_every_batch() -> None:
    whole = [x.tolist() for x, _ in TokenBatches(STREAM, BatchOptions(4), device=CPU, train=True)]
    parts = [
        [x.tolist() for x, _ in TokenBatches(STREAM, BatchOptions(4, rank=rank, processes=2), device=CPU, train=True)]
        for rank in (0, 1)
    ]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_a_part_is_held_out_at_the_end() -> None:
    train, held_out = STREAM.parts(0.2)
    assert (len(train), len(held_out)) == (8, 2)
    assert held_out.starts.tolist() == [80, 90]
    batches = TokenBatches(train, BatchOptions(8), device=CPU, train=True)
    seen = []
    for epoch in range(5):
        batches.set_epoch(epoch)
        seen += [int(targets.max()) for _, targets in batches]
    assert max(seen) == 80  # the target of the last token before
    assert len(STREAM.parts(0.0)[1]) == 0
