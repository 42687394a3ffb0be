"""Policies at work on pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from algorithms.augmentation.pictures import PictureAugment
from algorithms.augmentation.policies import POLICIES, parse_policy
from algorithms.augmentation.steps import BATCHWISE, BY_NAME
from infra.errors import InvalidOptionError, UserCodeError

CLASSES = ["left", "right"]
POLICY_MODULE = """
import torch
from torchvision.transforms import v2
def darker(picture): return picture // 2
def by_label(pictures, labels): return torch.where(labels[:, None, None, None] == 1, 255 - pictures, pictures)
def failing(picture):
    half = 0
    return picture / half[0]
def floats(picture): return picture.float()
class Brighter:
    def __init__(self, by, channels): self.by, self.channels = by, channels
    def __call__(self, picture): return picture + self.by
class Edge:
    def __init__(self, image_size): self.last = image_size - 1
    def __call__(self, picture):
        picture = picture.clone()
        picture[:, :, self.last] = 0
        return picture
flip_all = v2.RandomHorizontalFlip(p=1.0)
"""


@pytest.fixture(autouse=True)
def _own_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_policies.py").write_text(POLICY_MODULE)
    monkeypatch.chdir(tmp_path)


def pictures(count: int = 6, size: int = 12, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 255, (count, size, size, channels), generator=generator, dtype=torch.uint8)


def labels(count: int = 6) -> torch.Tensor:
    return torch.arange(count) % 2


def made(policy: Any, *, size: int = 12, channels: int = 3, no_flip: tuple[str, ...] = ()) -> PictureAugment:
    return PictureAugment(parse_policy(policy), CLASSES, size, channels, no_flip)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", [name for name in POLICIES if name not in ("none", "mixup", "cutmix")])
def test_a_policy_changes_pictures_and_keeps_their_shape_and_type(policy: str, channels: int) -> None:
    given = pictures(channels=channels)
    torch.manual_seed(1)
    before = given.clone()
    changed = made(policy, channels=channels).change(given, labels())
    assert (changed.shape, changed.dtype) == (given.shape, torch.uint8)
    assert changed.is_contiguous()
    assert not torch.equal(changed, given)
    assert torch.equal(given, before), "what was read must not be written to"


@pytest.mark.parametrize("policy", ["strong", "photo", "warp", "noise"])
def test_the_same_seed_gives_the_same_pictures_and_another_one_does_not(policy: str) -> None:
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(made(policy).change(pictures(), labels()))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_each_picture_draws_chances_of_its_own() -> None:
    torch.manual_seed(0)
    same = pictures(1).repeat(12, 1, 1, 1)
    for policy in ("shift", "warp", "rotation", "colour", "flip"):
        changed = made(policy).change(same, labels(12))
        assert len(torch.unique(changed.flatten(1), dim=0)) > 1, policy


@pytest.mark.parametrize(("step", "axis"), [("flip", 2), ("vertical-flip", 1)])
def test_classes_that_must_not_be_flipped_are_not(step: str, axis: int) -> None:
    torch.manual_seed(0)
    given, of = pictures(40), labels(40)
    changed = made([{"name": step, "p": 1.0}], no_flip=("right",)).change(given, of)
    assert torch.equal(changed[of == 1], given[of == 1])
    assert torch.equal(changed[of == 0], given[of == 0].flip(axis))


def test_a_warp_without_any_reach_changes_nothing_and_a_half_turn_turns() -> None:
    still = [{"name": "warp", "degrees": 0, "scale": [1, 1], "share": 0}]
    assert torch.equal(made(still).change(pictures(), labels()), pictures())


def test_a_blur_wider_than_the_picture_is_refused() -> None:
    assert made([{"name": "blur", "kernel": 23}]).change(pictures(), labels()).shape == pictures().shape
    with pytest.raises(InvalidOptionError, match="a kernel of 25 pixels is too large for pictures of 12; the largest is 23"):
        made([{"name": "blur", "kernel": 25}])


def test_the_probability_of_a_step_is_kept() -> None:
    torch.manual_seed(0)
    given = pictures(400, size=4)
    for policy in (
        [{"name": "flip", "p": 0.25}],
        [{"name": "blur", "p": 0.25, "sigma": [1, 1]}],
        [{"name": "my_policies:darker", "p": 0.25}],
    ):
        changed = made(policy, size=4).change(given, labels(400))
        share = float((changed != given).flatten(1).any(dim=1).float().mean())
        assert 0.17 < share < 0.33, policy


@pytest.mark.parametrize("policy", ["mixup", "cutmix"])
def test_mixing_tells_how_much_of_each_picture_is_left(policy: str) -> None:
    inputs = torch.arange(5.0)[:, None, None, None].expand(5, 1, 8, 8).contiguous()
    torch.manual_seed(4)
    mixed, shares = made([{"name": policy, "alpha": 1.0}], size=8, channels=1).mix(inputs)
    assert shares is not None
    assert float(shares.min()) < 1
    wanted = shares * inputs[:, 0, 0, 0] + (1 - shares) * inputs.roll(1, 0)[:, 0, 0, 0]
    torch.testing.assert_close(mixed.mean((1, 2, 3)), wanted)


def test_nothing_is_mixed_where_there_is_nothing_to_mix_with() -> None:
    one = torch.ones(1, 1, 4, 4)
    assert made("mixup").mix(one) == (one, None)
    several = torch.ones(3, 1, 4, 4)
    assert made([{"name": "mixup", "p": 0}]).mix(several) == (several, None)
    assert made("flip").mix(several) == (several, None)


def test_own_policies_of_a_picture_of_a_batch_a_class_and_a_transform() -> None:
    given, of = pictures(), labels()
    assert torch.equal(made("my_policies:darker").change(given, of), given // 2)
    assert torch.equal(made("my_policies:by_label").change(given, of), torch.where(of[:, None, None, None] == 1, 255 - given, given))
    assert torch.equal(made([{"name": "my_policies:Brighter", "by": 7}]).change(given, of), given + 7)
    assert torch.equal(made("my_policies:flip_all").change(given, of), given.flip(2))


def test_an_own_class_gets_the_side_as_a_number_also_of_pictures_that_are_not_square() -> None:
    policy = parse_policy([{"name": "my_policies:Edge"}])
    given = torch.full((2, 10, 14, 3), 7, dtype=torch.uint8)
    found = PictureAugment(policy, CLASSES, (10, 14), 3).change(given, labels(2))
    assert found.shape == given.shape
    assert not found[:, :, 9].any()
    assert (found[:, :, 8] == 7).all()


def test_an_own_policy_that_raises_shows_its_own_traceback_once() -> None:
    with pytest.raises(UserCodeError) as caught:
        made("my_policies:failing").change(pictures(), labels())
    told = str(caught.value)
    assert told.count("Traceback") == 1
    assert "return picture / half[0]" in told
    assert told.endswith("TypeError: 'int' object is not subscriptable")
    assert "user_code.py" not in told
    assert "augmentation/pictures.py" not in told


def test_an_own_policy_that_gives_something_else_is_told_what_is_wanted() -> None:
    with pytest.raises(UserCodeError, match=r"uint8 \[3, 12, 12\] it has to give such a tensor; it gave float32"):
        made("my_policies:floats").change(pictures(), labels())
    with pytest.raises(UserCodeError, match="wants 'by'"):
        made([{"name": "my_policies:Brighter", "buy": 7}])


@pytest.mark.parametrize("name", BY_NAME)
def test_only_the_steps_that_are_not_ours_need_torchvision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank's parent loads it beforehand by that list."""
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    try:
        made(name)
    except ModuleNotFoundError:
        needed = True
    else:
        needed = False
    assert needed == (BY_NAME[name] not in BATCHWISE)
