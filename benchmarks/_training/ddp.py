"""ResNet-18 with torch's DistributedDataParallel: plain (fp32), or tuned by hand (``--tuned``): bf16 autocast, channels_last, gradients as views into
its buckets, a static graph, a fused optimizer, decoding and resizing as tensors of bytes.

    torchrun --nproc-per-node 2 benchmarks/_training/ddp.py FOLDER --epochs 2 --batch 32 --image-size 96 [--tuned]
"""

from __future__ import annotations

import argparse
import os
import time

import timm
import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from torchvision import datasets, io, transforms
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--loader-workers", type=int, default=1)
    parser.add_argument("--tuned", action="store_true")
    parser.add_argument("--fp32", action="store_true", help="Tuned, but in fp32.")
    args = parser.parse_args()
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    if ranks > 1:
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    size = args.image_size
    if args.tuned:
        resize = v2.Resize((size, size), antialias=True)
        data = datasets.ImageFolder(args.folder, resize, loader=lambda path: io.decode_image(path, io.ImageReadMode.RGB))
    else:
        steps = [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        data = datasets.ImageFolder(args.folder, transforms.Compose(steps))
    sampler: DistributedSampler = DistributedSampler(data, num_replicas=ranks, rank=rank)
    workers = args.loader_workers
    loader = DataLoader(data, args.batch, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)
    model = timm.create_model("resnet18", num_classes=len(data.classes))
    if args.tuned:
        model = model.to(memory_format=torch.channels_last)
    trained = model
    if ranks > 1:
        more = {"gradient_as_bucket_view": True, "static_graph": True} if args.tuned else {}
        trained = DistributedDataParallel(model, **more)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=args.tuned or None)
    mean, scale = torch.tensor(MEAN).view(3, 1, 1) * 255, 1 / (torch.tensor(STD).view(3, 1, 1) * 255)
    trained.train()
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        started = 0.0
        seen = 0
        for images, labels in loader:
            started = started or time.perf_counter()  # what the loader's workers need to begin an epoch is not counted
            if args.tuned:
                images = ((images.float() - mean) * scale).contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.tuned and not args.fp32):
                outputs = trained(images)
            loss = functional.cross_entropy(outputs.float(), labels)
            loss.backward()
            optimizer.step()
            seen += len(labels)
        if rank == 0:
            print(f"IMAGES_PER_S {seen * ranks / (time.perf_counter() - started):.2f} LOSS {float(loss):.4f}", flush=True)
    if ranks > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
