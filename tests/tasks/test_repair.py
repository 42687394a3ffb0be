"""Repair: what is mended, how it is listed, and that the source stays as it is."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from infra.artifacts import read_file
from infra.context import StageContext
from infra.datasets.card import SPLITS, DatasetRef
from infra.datasets.dataset import open_dataset
from infra.datasets.importer import import_source
from infra.errors import InvalidSourceError
from infra.settings import load_settings
from infra.store import open_store
from tasks._card.repairs import repairs_finding, repairs_section
from tasks._mend_pictures import mend_picture, plain_channels
from tasks._mend_tables import count_column, decide_column, decode_again, read_number
from tasks.repair import Repaired, new_names, repair, summarise_repairs
from tasks.validate import validate

if TYPE_CHECKING:
    from distributed import Client

CNN, FOREST = "image-classification/small-cnn", "tabular-classification/random-forest"


@pytest.fixture
def context(workspace: Path, cluster: Client) -> StageContext:
    settings = load_settings()
    context = StageContext(settings, open_store(settings.workspace_uri))
    context.use_cluster(cluster)
    return context


def scene(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def encode(picture: Image.Image, form: str = "PNG", **more: Any) -> bytes:
    target = io.BytesIO()
    picture.save(target, form, **more)
    return target.getvalue()


def turned(picture: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(picture, "JPEG", quality=95, exif=exif)


def opened(data: bytes | None) -> Image.Image:
    assert data is not None
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


@pytest.mark.parametrize(("form", "suffix"), [("PNG", ".png"), ("JPEG", ".JPG"), ("JPEG", ".jpeg"), ("BMP", ".bmp"), ("GIF", ".gif")])
def test_a_good_picture_is_left_alone(form: str, suffix: str) -> None:
    assert mend_picture(f"cats/1{suffix}", encode(scene(1), form)) is None


def test_a_wrong_suffix_is_put_right_and_the_bytes_stay() -> None:
    mended = mend_picture("cats/1.jpg", encode(scene(1), "PNG"))
    assert mended is not None
    assert (mended.data, mended.suffix) == (None, ".png")
    assert mended.repairs == ("its name ends in .jpg, but it is PNG",)


def test_an_exif_turn_is_done_to_the_pixels() -> None:
    mended = mend_picture("1.jpg", turned(scene(1), 6))
    assert mended is not None
    after = opened(mended.data)
    assert (after.size, after.format, after.getexif().get(0x0112, 1)) == ((48, 64), "JPEG", 1)
    wanted = np.asarray(scene(1).transpose(Image.Transpose.ROTATE_270), np.int64)
    assert np.abs(np.asarray(after, np.int64) - wanted).mean() < 6
    assert mended.repairs == ("turned upright (EXIF orientation 6)",)


@pytest.mark.parametrize("mode", ["CMYK", "RGBA", "LA", "I;16", "F"])
def test_odd_channels_become_plain(mode: str) -> None:
    picture = (
        Image.fromarray(np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)) if mode == "I;16" else scene(1).convert(mode)
    )
    mended = mend_picture("1.tif", encode(picture, "TIFF"))
    assert mended is not None
    assert mended.repairs == (f"channels {mode} made plain",)
    assert opened(mended.data).mode in ("L", "RGB")
    assert mended.suffix == ".png"


def test_sixteen_bits_are_scaled_and_what_is_transparent_is_white() -> None:
    deep = Image.fromarray(np.array([[0, 32768, 65535]], np.uint16))
    assert np.asarray(plain_channels(deep)).tolist() == [[0, 128, 255]]
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert np.asarray(plain_channels(clear)).tolist() == [[[255, 255, 255]] * 2] * 2


def test_an_oversized_picture_is_made_smaller() -> None:
    mended = mend_picture("1.png", encode(scene(1, 300, 100)), largest=150)
    assert mended is not None
    assert opened(mended.data).size == (150, 50)
    assert mended.repairs == ("made smaller, from 300 x 100 to 150 x 50 pixels",)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_truncated_picture_is_recovered_if_half_of_it_is_there(form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    whole = encode(Image.fromarray(noise), form)
    suffix = ".jpg" if form == "JPEG" else ".png"
    mended = mend_picture(f"1{suffix}", whole[: len(whole) * 8 // 10])
    assert mended is not None
    after = np.asarray(opened(mended.data), np.int64)
    assert after.shape == (96, 96, 3)
    assert "of its rows were recovered" in mended.repairs[0]
    original = np.asarray(opened(whole).convert("RGB"), np.int64)
    assert np.abs(after[:60] - original[:60]).mean() < (12 if form == "JPEG" else 1)
    assert mend_picture(f"1{suffix}", whole[: len(whole) * 3 // 10]) is None


def test_what_is_no_picture_is_left_to_quarantine() -> None:
    for data in (b"", None, b"these are words", encode(scene(1))[:60]):
        assert mend_picture("1.png", data) is None


def test_mending_twice_gives_the_same_bytes_and_a_mended_picture_is_good() -> None:
    data = turned(scene(1).convert("L"), 3)
    one, other = mend_picture("1.jpg", data), mend_picture("1.jpg", data)
    assert one is not None
    assert one == other
    assert mend_picture("1.jpg", one.data) is None


def test_a_new_name_takes_nobody_elses() -> None:
    names = new_names({"a/1.jpg": ".png", "a/1.gif": ".png", "b/2.png": ""}, {"a/1.jpg", "a/1.gif", "a/1.png", "b/2.png"})
    assert names == {"a/1.gif": "a/1-1.png", "a/1.jpg": "a/1-2.png", "b/2.png": "b/2.png"}


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Forty pictures of two classes; five of them want repair, one is beyond it."""
    folder = tmp_path / "photographs"
    for seed in range(40):
        path = folder / ("cat" if seed % 2 else "dog") / f"{seed:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(scene(seed)))
    (folder / "cat" / "suffix.jpg").write_bytes(encode(scene(101)))
    (folder / "cat" / "turned.jpg").write_bytes(turned(scene(102), 8))
    (folder / "dog" / "channels.png").write_bytes(encode(scene(103).convert("RGBA")))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    cut = encode(Image.fromarray(noise), "JPEG", quality=95)
    (folder / "dog" / "cut.jpg").write_bytes(cut[: len(cut) * 9 // 10])
    (folder / "dog" / "wide.png").write_bytes(encode(scene(104, 5000, 20)))
    (folder / "dog" / "words.png").write_text("these are words\n")
    return folder


def rows(context: StageContext, ref: DatasetRef) -> dict[str, dict[str, Any]]:
    """All samples by path, with their split."""
    data = open_dataset(context.store, ref, context.settings.cache_path)
    return {row["path"]: {**row, "split": split} for split in SPLITS for table in data.iter_tables(split) for row in table.to_pylist()}


def listed(context: StageContext, repaired: Repaired) -> dict[str, Any]:
    return {one["id"]: one for one in json.loads(read_file(context.store, repaired.report, "repairs.json"))["repairs"]}


def test_repaired_pictures_are_a_new_version_and_each_repair_is_listed(context: StageContext, photographs: Path) -> None:
    data = import_source(context.store, str(photographs), "photographs")
    before = rows(context, data)
    repaired = repair(data, context=context)
    assert repaired.num_repaired == 5
    told = listed(context, repaired)
    assert set(told) == {"cat/suffix.jpg", "cat/turned.jpg", "dog/channels.png", "dog/cut.jpg", "dog/wide.png"}
    assert told["cat/suffix.jpg"]["to"] == "cat/suffix.png"
    assert all(one["what"] for one in told.values())
    after = rows(context, repaired.data)
    assert rows(context, data) == before, "the source is untouched"
    assert {one["to"] or one["id"] for one in told.values()} <= set(after)
    for path, row in before.items():
        new = after[told[path]["to"] or path] if path in told else after[path]
        assert (new["label"], new["split"]) == (row["label"], row["split"])
        assert path in told or new == row
    card = open_dataset(context.store, repaired.data, context.settings.cache_path).card
    assert (card.lineage.operation, card.lineage.parents, card.lineage.details) == ("repair", [data.digest], {"num_repaired": 5})
    again = repair(data, context=context)
    assert again == repaired
    assert repair(repaired.data, context=context).data.digest == repaired.data.digest, "there is nothing left to mend"


def test_on_invalid_repair_mends_first_and_sets_the_rest_aside(context: StageContext, photographs: Path) -> None:
    data = import_source(context.store, str(photographs), "photographs")
    plain = validate(data, CNN, {}, max_invalid_share=0.1, context=context)
    checked = validate(data, CNN, {}, on_invalid="repair", max_invalid_share=0.1, context=context)
    assert (plain.num_invalid, checked.num_invalid) == (2, 1)
    assert checked.num_repaired == 5
    report = json.loads(read_file(context.store, checked.report, "report.json"))
    assert report["repair"]["source"] == data.digest
    assert report["repair"]["summary"]["turned upright"] == 1
    told = json.loads(read_file(context.store, checked.report, "repairs.json"))
    html = str(repairs_section(told))
    assert "cat/suffix.png" in html
    assert repairs_finding(told, "image").startswith("5 pictures mended")
    card = open_dataset(context.store, checked.data, context.settings.cache_path).card
    assert card.lineage.operation == "quarantine"
    repaired = open_dataset(context.store, DatasetRef(digest=card.lineage.parents[0], kind="image"), context.settings.cache_path).card
    assert repaired.lineage.parents == [data.digest]
    assert validate(data, CNN, {}, on_invalid="repair", max_invalid_share=0.1, context=context) == checked


@pytest.mark.parametrize(
    ("text", "style", "number"),
    [
        ("12", "point", 12.0), ("-3.5e2", "point", -350.0), ("1,234,567.8", "point", 1234567.8), ("$5", "point", 5.0), ("-$5", "point", -5.0),
        ("$-5", "point", -5.0), ("7 %", "point", 7.0), ("12 000", "point", 12000.0), ("1.234,5", "comma", 1234.5), ("3,5 €", "comma", 3.5),
        (".5", "point", 0.5), ("0.5", "point", 0.5), ("0", "point", 0.0), ("0,567", "comma", 0.567),
        ("0,567", "point", None), ("0.567", "comma", None),
        ("12 km", "point", None), ("1,2", "point", None), ("007", "point", None), ("", "point", None), ("e5", "point", None), ("-", "point", None),
        ("2024-01-02", "point", None), ("+-3", "point", None), ("1 2", "point", None), ("nan", "point", None),
    ],
)  # fmt: skip
def test_numbers_as_people_write_them(text: str, style: Any, number: float | None) -> None:
    assert read_number(text, style) == number


def test_letters_that_were_decoded_wrongly_are_put_right() -> None:
    for right in ("café", "Müller", "naïve – “quoted”", "Ελλάδα", "5 €"):
        wrong = right.encode().decode("cp1252", errors="replace")
        assert decode_again(wrong) == (right if "\ufffd" not in wrong else wrong)
        assert decode_again(right) == right
    assert decode_again("Ã") == "Ã"


def test_a_column_is_decided_as_a_whole() -> None:
    def decided(values: list[str | None], **more: Any) -> Any:
        return decide_column("c", count_column(pa.chunked_array([pa.array(values)]), list(range(len(values)))), is_target=False, **more)

    prices = decided([*(f"{n},50 €" for n in range(40)), "n/a", "on request", None])
    assert (prices.becomes, prices.style, prices.num_numbers, prices.num_lost, prices.lost) == (
        "float",
        "comma",
        40,
        1,
        [(41, "on request")],
    )
    assert decided(["red", "blue"]) is None
    assert decided([*(f"{n}" for n in range(10)), "a", "b"]) is None, "too few numbers"
    assert decided(["01234", "04315", "99999"]) is None, "postcodes are no numbers"
    assert decided(["n/a", None, "-"]) is None
    shares = decided(["0,567", "1,234", "0,012"])
    assert (shares.becomes, shares.style) == ("float", "comma"), "thousands do not begin with 0"
    trimmed = decided(["red ", "red", " blue"])
    assert (trimmed.becomes, trimmed.num_trimmed) == ("", 2)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A table with prices as text, wrongly decoded towns and blanks around the classes."""
    random = np.random.default_rng(0)
    towns = ["Köln", "Paris", "Orléans"]
    lines = ["price;town;size;kind"]
    for number in range(120):
        price = "on request" if number == 7 else f"{random.integers(1000, 9000) / 100:.2f} €".replace(".", ",")
        town = towns[number % 3].encode().decode("cp1252")
        lines.append(f"{price};{town};{random.integers(1, 9)};{'cheap ' if number % 4 == 0 else 'cheap' if number % 2 else 'dear'}")
    path = tmp_path / "shop.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_mended_table_is_a_new_version_that_trains_on_numbers(context: StageContext, shop: Path) -> None:
    data = import_source(context.store, str(shop), "shop", target="kind")
    assert {feature.name: feature.type for feature in open_dataset(context.store, data, context.settings.cache_path).card.features}[
        "price"
    ] == "string"
    checked = validate(data, FOREST, {"target": "kind"}, on_invalid="repair", context=context)
    assert checked.num_repaired == 3
    told = {one["id"]: one["what"] for one in json.loads(read_file(context.store, checked.report, "repairs.json"))["repairs"]}
    assert told["price"][0].startswith("text made numbers: 119 values")
    assert "row 7: 'on request'" in told["price"][1]
    assert told["town"][0].startswith("letters decoded anew")
    assert told["kind"] == ["blanks around text removed: 30 values"]
    clean = open_dataset(context.store, checked.data, context.settings.cache_path)
    assert {feature.name: feature.type for feature in clean.card.features}["price"] == "float"
    assert {feature.name: feature.nulls for feature in clean.card.features}["price"] == 1
    assert clean.card.classes == ["cheap", "dear"]
    assert sum(clean.card.counts["train"].values()) == clean.card.num_rows["train"]
    table = pa.concat_tables(clean.iter_tables("train"))
    assert set(table.column("town").to_pylist()) == {"Köln", "Paris", "Orléans"}
    assert table.column("price").type == pa.float64()
    original = pa.concat_tables(open_dataset(context.store, data, context.settings.cache_path).iter_tables("train"))
    assert original.column("_row").to_pylist() == table.column("_row").to_pylist()
    assert repair(data, target="kind", context=context).data == repair(data, target="kind", context=context).data


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16"])
def test_a_table_in_another_encoding_is_imported_for_repair_and_told(context: StageContext, tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "towns.csv"
    lines = ["town,size,kind", *(f"{'Köln' if n % 2 else 'Nîmes'},{n % 7},{'small' if n % 3 else 'large'}" for n in range(60))]
    raw = "\n".join(lines).encode(encoding) + (b"\n\x81,1,small" if encoding == "latin-1" else b"")
    path.write_bytes(raw)
    with pytest.raises(InvalidSourceError, match="UTF-"):
        import_source(context.store, str(path), "towns", target="kind")
    data = import_source(context.store, str(path), "towns", target="kind", mend=True)
    assert path.read_bytes() == raw
    table = pa.concat_tables(open_dataset(context.store, data, context.settings.cache_path).iter_tables("train"))
    assert {"Köln", "Nîmes"} <= set(table.column("town").to_pylist())
    repaired = repair(data, target="kind", context=context)
    assert listed(context, repaired)["towns.csv"]["what"] == [f"encoding: read as {encoding}, kept as UTF-8"]


def test_a_table_in_order_stays_the_version_that_it_is(context: StageContext, wine_table: Path) -> None:
    data = import_source(context.store, str(wine_table), "wine", target="kind")
    repaired = repair(data, target="kind", context=context)
    assert (repaired.data, repaired.num_repaired) == (data, 0)
    assert summarise_repairs([]) == {}
