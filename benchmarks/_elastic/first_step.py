"""The least that a script of one's own does before its first step: ``horovodrun -np 2`` or ``torchrun`` starts it. Prints when that step was done."""

from __future__ import annotations

import sys
import time

import torch
from torch import nn


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 26 * 26, 10))
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    network: nn.Module = model
    if sys.argv[1] == "horovod":
        import horovod.torch as hvd

        hvd.init()
        hvd.broadcast_parameters(model.state_dict(), root_rank=0)
        optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
    else:
        torch.distributed.init_process_group("gloo")
        network = nn.parallel.DistributedDataParallel(model)
    inputs, targets = torch.randn(32, 1, 28, 28), torch.randint(10, (32,))
    loss = nn.functional.cross_entropy(network(inputs), targets)
    loss.backward()
    optimizer.step()
    print(f"first step at {time.time():.3f}", flush=True)


if __name__ == "__main__":
    main()
