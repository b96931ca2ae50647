"""WebDataset shards: what is in them, their index, their order, and what is refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from helpers import write_folder, write_shards
from lrpet.train.data import files, shards
from lrpet.train.data.batches import batches
from lrpet.train.data.dataset import FileImages
from lrpet.train.data.options import BatchOptions
from lrpet.train.data.sets import load
from lrpet.train.data.shards import find_shards, read_shards

CPU = torch.device("cpu")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of images, and its shards: two of train, seven and five images, and two of val."""
    write_folder(tmp_path / "images")
    write_shards(tmp_path / "images", tmp_path / "shards")
    return tmp_path


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def test_shards_hold_what_the_folder_holds(place: Path) -> None:
    by_folder, by_shards = (
        load(f"{kind}:{place / where}", image_size=16)
        for kind, where in (("folder", "images"), ("webdataset", "shards"))
    )
    for part in ("train", "test"):
        mine, other = getattr(by_shards, part), getattr(by_folder, part)
        assert isinstance(mine, FileImages)
        assert torch.equal(mine.labels, other.labels)
        for number in range(len(other)):
            assert mine.source.read(number) == other.source.read(number)
    assert by_shards.classes == ("0", "1")
    assert by_shards.train.source.name(8).endswith("shards/train-000001.tar/dog-2.png")  # type: ignore[union-attr]
    (place / "shards" / "classes.txt").write_text("cat\ndog\n")
    assert load(f"webdataset:{place / 'shards'}").classes == ("cat", "dog")
    (place / "shards" / "classes.txt").write_text("cat\n")
    with pytest.raises(ValueError, match="lists 1 classes, but the shards have class 1"):
        load(f"webdataset:{place / 'shards'}")


def test_shards_are_gone_through_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is used as long as the shards are those that it was made of."""
    seen: list[str] = []
    samples = shards._samples

    def watched(path: Path) -> Any:
        seen.append(path.name)
        return samples(path)

    monkeypatch.setattr(shards, "_samples", watched)
    paths = find_shards(place / "shards", "train")
    first = read_shards(paths, index=place / "index")
    again = read_shards(paths, index=place / "index")
    assert seen == ["train-000000.tar", "train-000001.tar"]
    assert torch.equal(first.places, again.places)
    tar(paths[1], {"a.png": b"x", "a.cls": b"3"})
    changed = read_shards(paths, index=place / "index")
    assert len(seen) == 4
    assert changed.labels.tolist() == [0] * 6 + [1, 3]
    with pytest.warns(UserWarning, match="cannot be written, so every run goes through the shards"):
        read_shards(paths, index=place / "nowhere" / "index")


@pytest.mark.parametrize("forged", [False, True])
@pytest.mark.parametrize(
    ("name", "place_in", "value"),
    [
        ("places", (3, 0), 2**56), ("places", (3, 0), -1), ("places", (3, 1), 2**62), ("places", (3, 2), 2**40),
        ("labels", 3, 2**40), ("labels", 3, -1), ("labels", 3, 1),
    ],
)  # fmt: skip
def test_a_damaged_index_is_said_and_made_anew(
    place: Path, name: str, place_in: Any, value: int, forged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one whose digest is right, as far as it names what the shards do not have."""
    paths, index = find_shards(place / "shards", "train"), place / "index"
    whole = read_shards(paths, index=index)
    with safe_open(index, framework="pt") as file:
        metadata = file.metadata()
        found = {each: file.get_tensor(each) for each in file.keys()}  # noqa: SIM118
    found[name][place_in] = value
    save_file(found, index, metadata | ({"sha256": shards._digest(found)} if forged else {}))
    if forged and value == 1:  # nothing else could tell
        assert read_shards(paths, index=index).labels[3] == 1
        return
    with pytest.warns(UserWarning, match="index is damaged, so the shards are gone through again"):
        again = read_shards(paths, index=index)
    assert torch.equal(again.places, whole.places)
    assert torch.equal(again.labels, whole.labels)
    monkeypatch.setattr(shards, "_samples", None)
    read_shards(paths, index=index)  # it was written again
    index.write_bytes(b"damaged")
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="index is damaged"):
        assert len(read_shards(paths, index=index, keep=False)) == len(whole)


def test_parts_are_found_by_folder_or_by_name(tmp_path: Path) -> None:
    for name in ("imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar", "latest.tar", "trainer.tar"):
        tar(tmp_path / name, {"a.jpg": b"x", "a.cls": b"0"})
    assert [path.name for path in find_shards(tmp_path, "train")] == ["imagenet1k-train-0000.tar"]
    assert find_shards(tmp_path, "test") == ()
    (tmp_path / "test").mkdir()
    tar(tmp_path / "test" / "0.tar", {"a.jpg": b"x", "a.cls": b"0"})
    assert [path.name for path in find_shards(tmp_path, "test")] == ["0.tar"]
    assert len(load(f"webdataset:{tmp_path}").test) == 1
    (tmp_path / "classes.txt").write_bytes(b"\xffcat\n")
    with pytest.raises(ValueError, match=r"classes\.txt is no list of classes, one a line in UTF-8"):
        load(f"webdataset:{tmp_path}")


def test_an_epoch_goes_through_windows_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All images once, in an order of the seed and the epoch; images of few shards stand together."""
    monkeypatch.setattr(files, "WINDOW", 2)
    for shard in range(6):
        tar(tmp_path / f"train-{shard}.tar", {f"{i}.{end}": b"0" for i in range(20) for end in ("png", "cls")})
    source = read_shards(find_shards(tmp_path, "train"), index=tmp_path / "index")
    part = FileImages(source, torch.arange(120), source.labels).subset(torch.arange(0, 120, 2))

    def order(seed: int) -> list[int]:
        return files._shuffled(part, torch.Generator().manual_seed(seed))

    assert sorted(order(0)) == list(range(60))
    assert order(0) == order(0) != order(1)
    shards_of = source.shards[part.numbers[order(0)]]
    assert [len(set(window.tolist())) for window in torch.split(shards_of, 20)] == [2, 2, 2]
    assert len(set(shards_of[:10].tolist())) == 2


def test_processes_and_workers_share_its_batches(place: Path) -> None:
    dataset = load(f"webdataset:{place / 'shards'}", image_size=16)

    def made(**options: Any) -> list[torch.Tensor]:
        each = batches(dataset.train, dataset, BatchOptions(4, seed=1, **options), device=CPU, train=True)
        each.set_epoch(3, done=1)
        return [images for images, _ in each]

    alone, first, second = made(), made(processes=2, num_workers=2), made(processes=2, rank=1)
    assert len(alone) == 2
    for whole, *parts in zip(alone, first, second, strict=True):
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": b"x"}, r"has a\.png for a: it needs one image .* and its class as a\.cls"),
        ({"a.png": b"x", "a.jpg": b"x", "a.cls": b"0"}, "it needs one image"),
        ({"a.png": b"x", "a.cls": b"40000000"}, r"has class 40000000 in a\.cls: there are at most 1,048,576"),
        ({"a.png": b"x", "a.cls": b"cat"}, r"has 'cat' in a\.cls, not the number of a class"),
        ({"x/a.b.png": b"x", "x/a.b.cls": b"0"}, r"for x/a: it needs one image"),
        ({}, "shards without any image"),
    ],
)
def test_what_is_no_sample_is_refused(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    path = tar(tmp_path / "train.tar", members)
    with pytest.raises(ValueError, match=message):
        read_shards((path,), index=tmp_path / "index")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("keep", [0, 700, 3000])
def test_what_is_no_whole_tar_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tar(tmp_path / "train.tar", {"a.png": b"x" * 4000, "a.cls": b"0"})
    path.write_bytes(path.read_bytes()[:keep] or b"no tar file at all")
    with pytest.raises(ValueError, match=r"train\.tar is no whole tar file"):
        read_shards((path,), index=tmp_path / "index")


def test_missing_shards_are_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no shards of train: it needs PART"):
        load(f"webdataset:{tmp_path}")
    tar(tmp_path / "train.tar", {"a.png": b"x", "a.cls": b"0"})
    with pytest.raises(FileNotFoundError, match="has no shards of test or val or validation"):
        load(f"webdataset:{tmp_path}")
