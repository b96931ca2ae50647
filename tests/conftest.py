"""One thread a process: threads of several test workers on few cores wait for each other for minutes."""

import torch

torch.set_num_threads(1)
