"""Augmentation as a stage: balanced and expanded versions, their lineage, and the gallery."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from infra.artifacts import read_file
from infra.context import StageContext
from infra.datasets.card import SPLITS, DatasetRef
from infra.datasets.dataset import open_dataset
from infra.datasets.importer import import_source
from infra.errors import InvalidOptionError, UserCodeError
from infra.settings import load_settings
from infra.store import open_store
from tasks._card.gallery import gallery_finding, gallery_markdown, gallery_section
from tasks.augment import augment, name_copies, num_wanted, row_policy, share_out, training_gallery

if TYPE_CHECKING:
    from distributed import Client

POLICY_MODULE = """
def failing(picture):
    raise ZeroDivisionError("in my own policy")
"""


@pytest.fixture
def context(workspace: Path, cluster: Client) -> StageContext:
    settings = load_settings()
    context = StageContext(settings, open_store(settings.workspace_uri))
    context.use_cluster(cluster)
    return context


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    """24 pictures of cats and 10 of dogs, of several sizes; JPEG and PNG."""
    folder = tmp_path / "uneven"
    random = np.random.default_rng(0)
    for name, count in (("cat", 24), ("dog", 10)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (5, 5, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels).resize((24, 16 + number % 2 * 8), Image.Resampling.BICUBIC)
            picture.save(folder / name / f"{number:02d}.{'png' if number % 3 else 'jpg'}")
    return folder


def read(context: StageContext, ref: DatasetRef) -> dict[str, dict[str, dict[str, Any]]]:
    """All samples by split and path."""
    data = open_dataset(context.store, ref, context.settings.cache_path)
    return {split: {row["path"]: row for table in data.iter_tables(split) for row in table.to_pylist()} for split in SPLITS}


def test_how_many_samples_are_wanted() -> None:
    counts = {"a": 10, "b": 4, "c": 0}
    assert num_wanted(counts, balance=True, expand=1) == {"a": 0, "b": 6, "c": 0}
    assert num_wanted(counts, balance=False, expand=3) == {"a": 20, "b": 8, "c": 0}
    assert num_wanted(counts, balance=True, expand=2) == {"a": 10, "b": 16, "c": 0}


def test_copies_are_shared_out_evenly() -> None:
    paths = [f"{n}.png" for n in range(7)]
    assert set(share_out(paths, 14, 0).values()) == {2}
    odd = share_out(paths, 9, 0)
    assert Counter(odd.values()) == {1: 5, 2: 2}
    assert odd == share_out(paths, 9, 0)
    assert any(odd != share_out(paths, 9, seed) for seed in range(1, 5))
    assert (share_out(paths, 0, 0), share_out([], 5, 0)) == ({}, {})


def test_copies_take_nobodys_name() -> None:
    assert name_copies({"a/1.png": 2}, {"a/1.png", "a/1~1.png"}) == {"a/1.png": ["a/1~2.png", "a/1~3.png"]}


def test_balancing_fills_the_rarer_class_of_the_training_split_alone(context: StageContext, uneven: Path) -> None:
    data = import_source(context.store, str(uneven), "pets")
    before = read(context, data)
    made = augment(data, "photo", balance=True, seed=3, context=context)
    after = read(context, made.data)
    card = open_dataset(context.store, made.data, context.settings.cache_path).card
    assert card.counts["train"]["cat"] == card.counts["train"]["dog"] > made.added["dog"] > 0
    assert made.added["cat"] == 0
    assert (after["valid"], after["test"]) == (before["valid"], before["test"])
    assert {path: after["train"][path] for path in before["train"]} == before["train"]
    new = [after["train"][path] for path in after["train"].keys() - before["train"].keys()]
    assert len(new) == made.added["dog"]
    assert len({row["sha256"] for row in new}) == len(new), "each copy is another picture"
    for row in new:
        source = before["train"][row["path"].split("~")[0] + Path(row["path"]).suffix]
        with Image.open(io.BytesIO(row["image"])) as copy, Image.open(io.BytesIO(source["image"])) as original:
            assert (copy.size, copy.format) == (original.size, original.format)
        assert row["label"] == source["label"]
    assert (card.lineage.operation, card.lineage.parents) == ("augment", [data.digest])
    assert {key: card.lineage.details[key] for key in ("policy", "balance", "seed", "added")} == {
        "policy": "photo",
        "balance": True,
        "seed": 3,
        "added": made.added,
    }
    assert read(context, data) == before


def test_the_same_seed_gives_the_same_version_made_anew(context: StageContext, uneven: Path) -> None:
    data = import_source(context.store, str(uneven), "pets")
    first = augment(data, "trivial-augment", expand=2, seed=1, context=context)
    found = read(context, first.data)
    context.store.delete(first.data.key)
    again = augment(data, "trivial-augment", expand=2, seed=1, context=context)
    assert again.data == first.data
    assert read(context, again.data) == found
    other = augment(data, "trivial-augment", expand=2, seed=2, context=context)
    assert other.data != first.data
    assert sum(first.added.values()) == len(found["train"]) // 2


def test_where_nothing_is_wanted_the_version_stays(context: StageContext, uneven: Path) -> None:
    data = import_source(context.store, str(uneven), "pets")
    made = augment(data, "flip", context=context)
    assert (made.data, set(made.added.values())) == (data, {0})


@pytest.mark.parametrize(
    ("policy", "more", "told"),
    [
        ("mixup", {}, "mixup mixes labels"),
        ("none", {}, "changes nothing"),
        ("flipp", {}, "nearest: flip"),
        ("flip", {"expand": 0}, "expand: 0"),
        ("flip", {"no_flip": ["bird"]}, "no class 'bird'"),
    ],
)
def test_what_cannot_be_is_told(context: StageContext, uneven: Path, policy: str, more: dict[str, Any], told: str) -> None:
    data = import_source(context.store, str(uneven), "pets")
    with pytest.raises(InvalidOptionError, match=told):
        augment(data, policy, **{"balance": True, **more}, context=context)


def test_the_policy_of_a_new_table_is_that_of_the_option_or_refused() -> None:
    assert [row_policy(one, regression=False) for one in ("none", "noise", "smote")] == ["smote", "noise", "smote"]
    assert row_policy("none", regression=True) == "noise"
    with pytest.raises(InvalidOptionError, match="my_rows:grow works on encoded rows"):
        row_policy("my_rows:grow", regression=False)


def test_a_users_policy_that_raises_shows_its_own_traceback_once(
    context: StageContext, uneven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_stage_policies.py").write_text(POLICY_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    data = import_source(context.store, str(uneven), "pets")
    for worker in context.client().scheduler_info(n_workers=-1)["workers"]:
        context.client().run(_see, str(tmp_path), workers=[worker])
    with pytest.raises(UserCodeError) as caught:
        augment(data, "my_stage_policies:failing", balance=True, context=context)
    told = str(caught.value)
    assert told.count("Traceback") == 1
    assert 'raise ZeroDivisionError("in my own policy")' in told
    assert "_augment_pictures" not in told


def _see(folder: str) -> None:
    import sys

    sys.path.append(folder)


def test_the_gallery_of_a_training_shows_pictures_before_and_after(context: StageContext, uneven: Path) -> None:
    data = import_source(context.store, str(uneven), "pets")
    config = {"augment": [{"name": "flip", "p": 1}, {"name": "mixup"}], "image_size": 16, "channels": 3, "no_flip": ["dog"], "seed": 0}
    made = training_gallery("image-classification/small-cnn", config, data, context=context)
    assert made is not None
    gallery = json.loads(read_file(context.store, made, "gallery.json"))
    assert {row["label"] for row in gallery["rows"]} == {"cat", "dog"}
    assert all(len(row["after"]) == 5 and row["before"] not in row["after"][:1] for row in gallery["rows"] if row["label"] == "cat")
    assert training_gallery("image-classification/small-cnn", config, data, context=context) == made
    html, text = str(gallery_section(gallery)), gallery_markdown(gallery)
    assert html.count("<img") == text.count("data:image") == 6 * len(gallery["rows"])
    assert "Never flipped: dog" in gallery_finding(gallery)
    assert "mixup (alpha 0.2)" in text
    none = {**config, "augment": "none"}
    assert training_gallery("image-classification/small-cnn", none, data, context=context) is None
    assert training_gallery("tabular-classification/mlp", {"augment": "noise"}, data, context=context) is None


@pytest.fixture
def wine(context: StageContext, wine_table: Path) -> DatasetRef:
    return import_source(context.store, str(wine_table), "wine", target="kind")


@pytest.mark.parametrize("policy", ["smote", "noise"])
def test_rows_of_the_rarer_classes_are_made_of_their_own(context: StageContext, wine: DatasetRef, policy: str) -> None:
    made = augment(wine, policy, balance=True, seed=5, context=context)
    data = open_dataset(context.store, made.data, context.settings.cache_path)
    parent = open_dataset(context.store, wine, context.settings.cache_path)
    assert len(set(data.card.counts["train"].values())) == 1
    assert data.card.num_rows["test"] == parent.card.num_rows["test"]
    assert made.gallery is None
    rows = [row for table in data.iter_tables("train") for row in table.to_pylist()]
    old = [row for table in parent.iter_tables("train") for row in table.to_pylist()]
    assert rows[: len(old)] == old
    new = rows[len(old) :]
    assert len(new) == sum(made.added.values()) > 10
    numbers = [row["_row"] for row in rows]
    assert len(set(numbers)) == len(numbers)
    assert min(row["_row"] for row in new) == 178
    for kind, count in made.added.items():
        mine = [row["alcohol"] for row in new if row["kind"] == kind]
        own = [row["alcohol"] for row in old if row["kind"] == kind]
        assert len(mine) == count
        assert policy == "noise" or all(min(own) - 1e-9 <= value <= max(own) + 1e-9 for value in mine)
        assert not set(mine) & set(own) or policy == "smote"
    assert all(isinstance(row["proline"], type(old[0]["proline"])) for row in new)
    assert augment(wine, policy, balance=True, seed=5, context=context) == made


def test_policies_of_pictures_are_not_for_tables(context: StageContext, wine: DatasetRef) -> None:
    with pytest.raises(InvalidOptionError, match=r"'flip' is not for tables. Allowed: noise, smote"):
        augment(wine, "flip", balance=True, context=context)


def test_two_ranks_whose_policy_raises_tell_it_once(context: StageContext, uneven: Path) -> None:
    from algorithms.run import RunSpec

    spec = RunSpec(
        verb="train",
        algorithm="image-classification/small-cnn",
        config={"augment": "tests.policies:failing", "epochs": 1, "batch_size": 8},
        dataset=import_source(context.store, str(uneven), "pets"),
        workspace=context.settings.workspace_uri,
        output="runs/failing/trained",
    )
    context.backend = "torch"
    with pytest.raises(UserCodeError) as caught:
        context.launch_ranks(spec, num_ranks=2, on_event=lambda event: None)
    told = str(caught.value)
    assert told.count("Traceback") == told.count("in my own policy") - 1 == 1
    assert 'raise ZeroDivisionError("in my own policy")' in told
    assert "torch_verbs" not in told
