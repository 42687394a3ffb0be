"""ResNet-18 with Horovod as its own documentation shows it: fp32, ``DistributedOptimizer``, torch's ``DataLoader``.

horovodrun --gloo -np 2 python benchmarks/_training/horovod_stock.py FOLDER --epochs 2 --batch 32 --image-size 96
"""

from __future__ import annotations

import argparse
import time

import horovod.torch as hvd
import timm
import torch
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from torchvision import datasets, transforms


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--loader-workers", type=int, default=1)
    args = parser.parse_args()
    hvd.init()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    size = args.image_size
    steps = [
        transforms.Resize((size, size)),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    data = datasets.ImageFolder(args.folder, transforms.Compose(steps))
    sampler: DistributedSampler = DistributedSampler(data, num_replicas=hvd.size(), rank=hvd.rank())
    workers = args.loader_workers
    loader = DataLoader(data, args.batch, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)
    model = timm.create_model("resnet18", num_classes=len(data.classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    model.train()
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        started = 0.0
        seen = 0
        for images, labels in loader:
            started = started or time.perf_counter()  # what the loader's workers need to begin an epoch is not counted
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            seen += len(labels)
        if hvd.rank() == 0:
            print(f"IMAGES_PER_S {seen * hvd.size() / (time.perf_counter() - started):.2f} LOSS {float(loss):.4f}", flush=True)


if __name__ == "__main__":
    main()
