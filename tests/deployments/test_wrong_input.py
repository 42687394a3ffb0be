"""What a user may get wrong: each ends with status 2 and one clear message, no traceback, and nothing registered."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.cli import main
from infra.settings import load_settings
from tests.runs import QUICK

CNN = "image-classification/small-cnn"
LINEAR = "tabular-classification/linear"
Make = Callable[[Path, Path], list[str]]


def table(folder: Path, text: str) -> str:
    path = folder / "table.csv"
    path.write_text(text)
    return str(path)


def pictures(folder: Path, digits: Path, counts: dict[str, int]) -> Path:
    data = folder / "pictures"
    for name, count in counts.items():
        (data / name).mkdir(parents=True)
        for file in sorted((digits / name).iterdir())[:count]:
            shutil.copy(file, data / name)
    return data


def missing_path(folder: Path, digits: Path) -> list[str]:
    return [CNN, "--data", str(folder / "nowhere")]


def empty_folder(folder: Path, digits: Path) -> list[str]:
    (folder / "empty").mkdir()
    return [CNN, "--data", str(folder / "empty")]


def one_class(folder: Path, digits: Path) -> list[str]:
    return [CNN, "--data", str(pictures(folder, digits, {"1": 10}))]


def a_class_with_one_sample(folder: Path, digits: Path) -> list[str]:
    return [CNN, "--data", str(pictures(folder, digits, {"1": 10, "2": 1}))]


def too_many_broken_pictures(folder: Path, digits: Path) -> list[str]:
    data = pictures(folder, digits, {"1": 12, "2": 12})
    (data / "1" / "text.png").write_text("this is a text")
    (data / "1" / "empty.png").write_bytes(b"")
    whole = next((data / "2").iterdir()).read_bytes()
    (data / "2" / "half.png").write_bytes(whole[: len(whole) // 2])
    return [CNN, "--data", str(data)]


def no_target_column(folder: Path, digits: Path) -> list[str]:
    return [LINEAR, "--data", table(folder, "a,label\n1,x\n2,y\n"), "--set", "target=labels"]


def no_target_given(folder: Path, digits: Path) -> list[str]:
    return [LINEAR, "--data", table(folder, "a,label\n1,x\n2,y\n")]


def ragged_rows(folder: Path, digits: Path) -> list[str]:
    return [LINEAR, "--data", table(folder, "a,label\n1,x\n2,y,z\n3,x\n"), "--set", "target=label"]


def one_target_value(folder: Path, digits: Path) -> list[str]:
    return [LINEAR, "--data", table(folder, "a,label\n" + "".join(f"{i},x\n" for i in range(30))), "--set", "target=label"]


def unknown_algorithm(folder: Path, digits: Path) -> list[str]:
    return ["image-classification/resnet-18", "--data", str(digits)]


def unknown_option(folder: Path, digits: Path) -> list[str]:
    return [CNN, "--data", str(digits), "--set", "epoch=3"]


def option_out_of_range(folder: Path, digits: Path) -> list[str]:
    return [CNN, "--data", str(digits), "--set", "epochs=-3", "--set", "learning_rate=fast"]


def too_many_workers(folder: Path, digits: Path) -> list[str]:
    return [CNN, "--data", str(digits), "--workers", "500"]


def workers_upside_down(folder: Path, digits: Path) -> list[str]:
    return [CNN, "--data", str(digits), "--workers", "4:2"]


def too_many_at_least(folder: Path, digits: Path) -> list[str]:
    return [CNN, "--data", str(digits), "--workers", "500:600"]


def no_trials(folder: Path, digits: Path) -> list[str]:
    return [CNN, "--data", str(digits), "--trials", "0"]


def unknown_option_in_the_space(folder: Path, digits: Path) -> list[str]:
    (folder / "space.toml").write_text('learning_rat = "0.001..0.1"\n')
    return [CNN, "--data", str(digits), "--trials", "3", "--space", str(folder / "space.toml")]


def one_objective_sampler_for_two(folder: Path, digits: Path) -> list[str]:
    return [CNN, "--data", str(digits), "--trials", "3", "--sampler", "cmaes", "--objective", "latency"]


def endless_budget(folder: Path, digits: Path) -> list[str]:
    return [CNN, "--data", str(digits), "--compress", "auto", "--max-size-mb", "inf", "--max-latency-ms", "inf"]


def a_budget_without_compression(folder: Path, digits: Path) -> list[str]:
    return [CNN, "--data", str(digits), "--max-accuracy-loss", "0.1", "--time-limit", "5"]


def nothing_to_measure_on(folder: Path, digits: Path) -> list[str]:
    return [CNN, "--data", str(pictures(folder, digits, {"1": 12, "2": 12})), "--splits", "80/0/20", "--compress", "auto"]


def too_few_to_calibrate(folder: Path, digits: Path) -> list[str]:
    return [CNN, "--data", str(pictures(folder, digits, {"1": 20, "2": 20})), "--compress", "quantize"]


def nothing_to_compress(folder: Path, digits: Path) -> list[str]:
    rows = "a,label\n" + "".join(f"{i},{'xy'[i % 2]}\n" for i in range(40))
    return [LINEAR, "--data", table(folder, rows), "--set", "target=label", "--compress", "prune", "--strict-budget"]


def own_policy_of_rows_and_balance(folder: Path, digits: Path) -> list[str]:
    return [LINEAR, "--data", table(folder, "a,label\n1,x\n2,y\n"), "--set", "target=label", "--set", "augment=my_rows:grow", "--balance"]


def own_loss_that_is_not_there(folder: Path, digits: Path) -> list[str]:
    return [CNN, "--data", str(digits), "--set", "loss=no_such_module:loss"]


def climbing_archive(folder: Path, digits: Path) -> list[str]:
    archive = folder / "data.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(next((digits / "1").iterdir()), arcname="../../1/a.png")
    return [CNN, "--data", str(archive)]


CASES: list[tuple[Make, list[str]]] = [
    (missing_path, ["nowhere"]),
    (empty_folder, ["empty"]),
    (one_class, ["one class"]),
    (a_class_with_one_sample, ["'2'", "1"]),
    (too_many_broken_pictures, ["3", "text.png"]),
    (no_target_column, ["labels", "label"]),
    (no_target_given, ["target", "--set target="]),
    (ragged_rows, ["3"]),
    (one_target_value, ["label", "one value"]),
    (unknown_algorithm, ["image-classification/resnet18"]),
    (unknown_option, ["epoch", "did you mean epochs"]),
    (option_out_of_range, ["epochs", "-3", "learning_rate", "fast"]),
    (too_many_workers, ["500", "slots"]),
    (workers_upside_down, ["--workers:", "4:2", "below the smallest"]),
    (too_many_at_least, ["500", "slots"]),
    (no_trials, ["--trials:", "got 0"]),
    (unknown_option_in_the_space, ["learning_rat", "did you mean learning_rate"]),
    (one_objective_sampler_for_two, ["--sampler: cmaes", "latency", "nsga2"]),
    (endless_budget, ["--max-size-mb:", "--max-latency-ms:", "finite", "inf"]),
    (a_budget_without_compression, ["--max-accuracy-loss:", "--compress", "--time-limit:", "--trials"]),
    (nothing_to_measure_on, ["--compress:", "valid split", "--splits"]),
    (too_few_to_calibrate, ["--compress:", "at least 32 training samples", "has 28"]),
    (nothing_to_compress, ["--strict-budget:", "nothing can be tried", "--compress prune"]),
    (own_policy_of_rows_and_balance, ["my_rows:grow", "encoded rows", "--balance"]),
    (own_loss_that_is_not_there, ["no_such_module:loss", "no module"]),
    (climbing_archive, ["..", "not safe"]),
]


@pytest.mark.parametrize(("make", "words"), CASES, ids=[make.__name__ for make, _ in CASES])
def test_wrong_input_ends_with_status_2_and_one_message(
    make: Make, words: list[str], shared_services: Path, digits_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = make(tmp_path, digits_folder)
    with pytest.raises(SystemExit) as ended:
        main(["run", *arguments])
    out, err = capfd.readouterr()
    assert ended.value.code == 2, err
    assert out == ""
    assert "Traceback" not in err
    assert err.count("Error: ") == 1
    message = err[err.index("Error: ") :]
    for word in words:
        assert word in message, message
    assert not list(shared_services.glob("registry/log/*"))
    assert not list(shared_services.glob("runs/*")), "something was trained before it was refused"


def test_a_read_only_workspace_is_told(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")  # a permission would not stop root
    monkeypatch.setenv("ATELIER_WORKSPACE", str(blocker / "workspace"))
    load_settings.cache_clear()
    with pytest.raises(SystemExit) as ended:
        main(["run", CNN, "--data", str(digits_folder)])
    assert ended.value.code == 2
    assert str(blocker) in capfd.readouterr().err


def test_wrong_s3_credentials_are_told(
    s3_workspace: str, digits_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATELIER_WORKSPACE", "s3://no-such-bucket-here/workspace")
    load_settings.cache_clear()
    with pytest.raises(SystemExit) as ended:
        main(["run", CNN, "--data", str(digits_folder)])
    assert ended.value.code == 2
    assert "no-such-bucket-here" in capfd.readouterr().err


def test_broken_pictures_below_the_share_are_set_aside_and_listed(
    shared_services: Path, digits_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import json

    data = pictures(tmp_path, digits_folder, {"1": 40, "2": 40})
    (data / "1" / "text.png").write_text("this is a text")
    (data / "2" / "empty.png").write_bytes(b"")
    with pytest.raises(SystemExit) as ended:
        main(["run", CNN, "--data", str(data), "--json", *[word for key, value in QUICK.items() for word in ("--set", f"{key}={value}")]])
    out, err = capfd.readouterr()
    assert ended.value.code == 0, err
    assert json.loads(out)["version"] == 1
    (listed,) = shared_services.glob("validations/*/quarantined.json")
    assert {"1/text.png", "2/empty.png"} == {entry["id"] for entry in json.loads(listed.read_text())}


def test_a_damaged_file_is_named(shared_services: Path, few_digits: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quick = [word for key, value in QUICK.items() for word in ("--set", f"{key}={value}")]
    with pytest.raises(SystemExit):
        main(["run", CNN, "--data", str(few_digits), "--json", *quick])
    for part in ("package-*/model.onnx", "trained/*.safetensors"):
        (file,) = shared_services.glob(f"runs/*/{part}")
        whole = file.read_bytes()
        damaged = bytearray(whole)
        damaged[len(damaged) // 2] ^= 1
        file.write_bytes(bytes(damaged))
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["run", CNN, "--data", str(few_digits), "--name", "other", "--json", *quick])
        err = capfd.readouterr().err
        assert ended.value.code == 2, err
        assert file.name in err
        assert "Traceback" not in err
        file.write_bytes(whole)
        for package in shared_services.glob("runs/*/package-*"):
            shutil.rmtree(package)  # so that the weights are read once more


def test_deploying_to_a_server_that_is_gone_says_so(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATELIER_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("PREFECT_API_URL", url := f"http://127.0.0.1:{free_port}/api")
    with pytest.raises(SystemExit) as ended:
        main(["deploy", "monitor", "--name", "digits", "--set", "model=digits"])
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert url in told
    assert "does not answer" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--schedule", "nightly"], "--schedule"),
        (["--set", "modell=digits"], "modell"),
        (["--set", "hours=many"], "hours"),
        (["--name", "a/b"], "--name"),
        (["--schedule", "1h"], "there is no Prefect server"),
    ],
)
def test_what_is_wrong_with_a_deployment_is_said_before_a_server_is_looked_for(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATELIER_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setattr("infra.prefect_server.configured_url", lambda: "")
    load_settings.cache_clear()
    with pytest.raises(SystemExit) as ended:
        main(["deploy", "monitor", *words])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
