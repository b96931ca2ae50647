"""One thread a process: threads of several test workers on few cores wait for each other for minutes."""

import pytest
import torch
from helpers import Small

torch.set_num_threads(1)


@pytest.fixture
def small() -> Small:
    torch.manual_seed(0)
    return Small()
