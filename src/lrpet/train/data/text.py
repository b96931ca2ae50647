"""Sets of text: files as one stream of tokens, cut into windows for language models."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lrpet.train.data.options import BatchOptions, mixed

#: Between two files, where the tokens are bytes.
END_OF_FILE = b"\0"
#: One file in so many is of the test part, where the data names none; with fewer files, so many parts of the text.
TEST_SHARE = 20


@dataclass(frozen=True, eq=False)
class Tokens:
    """Windows of a stream of tokens. Each is read together with the token after it, which is the last one's target."""

    stream: Tensor
    """All tokens, shape (N,); uint8 where they are bytes, else int32."""
    starts: Tensor
    """Where each window begins, shape (W,)."""
    length: int
    """Tokens in a window."""

    @classmethod
    def of(cls, stream: Tensor, length: int) -> Tokens:
        """Cut a stream into windows, side by side; what is left at its end is too short for one."""
        return cls(stream, torch.arange(0, max(0, len(stream) - length), length), length)

    def __len__(self) -> int:
        return len(self.starts)

    def parts(self, holdout: float) -> tuple[Tokens, Tokens]:
        """Return all windows but the last fraction `holdout` of them, and these.

        The stream of the first part ends with the target of its last token, so that moved windows see nothing of the second.
        """
        kept = len(self) - round(holdout * len(self))
        held = self.starts[kept:]
        stream = self.stream[: int(held[0]) + 1] if len(held) else self.stream
        return Tokens(stream, self.starts[:kept], self.length), Tokens(self.stream, held, self.length)


@dataclass(frozen=True, eq=False)
class TextDataset:
    """A named set of text: its two parts, and what a network needs to know about it."""

    name: str
    train: Tokens
    test: Tokens
    vocabulary: int
    """How many tokens there are."""
    tokenizer: str | None
    """Name or folder of the tokenizer of transformers; None where tokens are bytes."""
    end: int | None
    """The token that ends a file, if one does."""

    in_channels: ClassVar[int] = 1

    @property
    def outputs(self) -> int:
        """How many classes a network has to tell apart: one for each token."""
        return self.vocabulary

    def example(self) -> Tensor:
        """Return a batch of one window, shape (1, length)."""
        return torch.zeros(1, self.train.length, dtype=torch.long)

    @property
    def metadata(self) -> dict[str, Any]:
        """What belongs beside the weights of a network trained on this set."""
        return {
            "data": self.name,
            "vocabulary": self.vocabulary,
            "tokenizer": self.tokenizer or "bytes",
            "context": self.train.length,
        }


class TokenBatches:
    """Batches of windows: int64 tokens and, one place further, their targets, both of shape (batch, length).

    In training, the windows of an epoch are shuffled, and all moved by one random number of tokens. Order and move depend
    on the seed and the epoch alone.
    """

    def __init__(self, tokens: Tokens, options: BatchOptions, *, device: torch.device, train: bool) -> None:
        self.tokens, self.options, self.train, self.epoch, self.done = tokens, options, train, 0, 0
        self.stream, self.starts = tokens.stream.to(device), tokens.starts.to(device)
        self.places = torch.arange(tokens.length + 1, device=device)

    def __len__(self) -> int:
        size = self.options.batch_size
        return len(self.tokens) // size if self.train else -(-len(self.tokens) // size)

    def set_epoch(self, epoch: int, *, done: int = 0) -> None:
        """Choose the epoch whose order the next iteration has, and how many batches it leaves out."""
        self.epoch, self.done = epoch, done

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        starts, first, size = self.starts, 0, self.options.batch_size
        if self.train:
            generator = torch.Generator().manual_seed(mixed(self.options.seed, self.epoch))
            order = torch.randperm(len(starts), generator=generator).to(starts.device)
            move = int(torch.randint(self.tokens.length, (), generator=generator))
            last = len(self.stream) - self.tokens.length - 1
            starts, first = (starts[order] + move).clamp(max=last), self.done
        for begin in range(first * size, len(self) * size, size):
            own = starts[self.options.own(slice(begin, begin + size), train=self.train)]
            if len(own):
                windows = self.stream[own[:, None] + self.places].long()
                yield windows[:, :-1], windows[:, 1:]


def load_text(name: str, *, context: int, tokenizer: str | None = None, download: bool = True) -> TextDataset:
    """Load a set of text.

    Args:
        name: `text:PATH`, a file or a folder of files in UTF-8; or `text:stdlib`, the sources of Python's standard library. A
            folder with folders `train` and `test` or `val` says itself which part is which. Else every twentieth file is
            of the test part, or the last twentieth of the text where there are fewer files.
        context: Tokens in a window.
        tokenizer: Name or folder of a tokenizer of transformers; tokens are bytes if None.
        download: Whether a tokenizer that is not on this machine is downloaded.

    Raises:
        FileNotFoundError: the path is not there.
        ValueError: a file is not text, or there is too little of it.
    """
    path = _stdlib() if name == "text:stdlib" else Path(name.removeprefix("text:"))
    read = _Bytes() if tokenizer is None else _Tokenizer(tokenizer, download=download)
    train, test = _divided(path, standard=name == "text:stdlib")
    if test:
        streams = [read(train), read(test)]
    else:
        whole = read(train)
        begin = len(whole) - len(whole) // TEST_SHARE
        streams = [whole[:begin], whole[begin:]]
    parts = [Tokens.of(stream, context) for stream in streams]
    if not all(len(part) for part in parts):
        raise ValueError(
            f"{name} has {len(streams[0]):,} tokens to train on and {len(streams[1]):,} to test on: each part needs more than "
            f"context={context} tokens, give more text or a lower context"
        )
    train_part, test_part = parts
    return TextDataset(name, train_part, test_part, read.vocabulary, tokenizer, read.end)


def _stdlib() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _divided(path: Path, *, standard: bool) -> tuple[list[Path], list[Path]]:
    """Return the files of the training and the test part; an empty test part if the text itself is to be divided."""
    if path.is_file():
        return [path], []
    if not path.is_dir():
        raise FileNotFoundError(f"there is no {path}: text:PATH takes a file or a folder of text")
    test = next((path / part for part in ("test", "val") if (path / part).is_dir()), None)
    if (path / "train").is_dir() and test is not None and not standard:
        return _files(path / "train"), _files(test)
    files = _files(path)
    if standard:  # what Python itself brings, whatever is installed beside it
        beside = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
        files = [file for file in files if file.suffix == ".py" and beside.isdisjoint(file.relative_to(path).parts)]
    if len(files) < TEST_SHARE:
        return files, []
    return [file for i, file in enumerate(files) if i % TEST_SHARE], files[::TEST_SHARE]


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not files:
        raise ValueError(f"{folder} holds no files")
    return files


def _text(path: Path) -> bytes:
    data = path.read_bytes()
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 (byte {error.start}): remove it from the data") from None
    return data


class _Bytes:
    """Reads files as bytes."""

    vocabulary = 256
    end = END_OF_FILE[0]

    def __call__(self, files: Sequence[Path]) -> Tensor:
        data = b"".join(_text(path) + END_OF_FILE for path in files)
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)


class _Tokenizer:
    """Reads files by a tokenizer of transformers, each ended by its end-of-text token where it has one."""

    def __init__(self, name: str, *, download: bool) -> None:
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            message = "tokenizers need transformers: pip install 'lrpet[huggingface]'"
            raise ImportError(message, name="transformers") from error
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name, local_files_only=not download)
        except (OSError, ValueError) as error:
            said = str(error).partition("\n")[0]
            raise ValueError(f"tokenizer={name} is no folder or name of a tokenizer: {said}") from None
        self.end: int | None = self.tokenizer.eos_token_id

    @property
    def vocabulary(self) -> int:
        return len(self.tokenizer)

    def __call__(self, files: Sequence[Path]) -> Tensor:
        end = [] if self.end is None else [self.end]
        tokens: list[int] = []
        for path in files:
            tokens += self.tokenizer(_text(path).decode("utf-8"), add_special_tokens=False)["input_ids"] + end
        return torch.tensor(tokens, dtype=torch.int32)
