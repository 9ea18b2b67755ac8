"""Samples on the command line: what the files say is what the samples are."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import SimpleITK as sitk
from MRFUNetSegmentationLib.cli import results
from MRFUNetSegmentationLib.cli.main import main
from MRFUNetSegmentationLib.cli.segment import _interval
from MRFUNetSegmentationLib.errors import InputError
from MRFUNetSegmentationLib.inference.result_files import read_result_folder
from sampling_tools import read, write_model, write_scan
from test_inference_volume import with_header

PLAIN = {"segmentation.nii.gz", "segmentation.seg.nrrd", "report.json", "preview.png"}


@pytest.fixture(scope="module")
def model(tiny_card, tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), tiny_card)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return write_scan(tmp_path_factory.mktemp("scan"))


@pytest.fixture
def segment(scan, model, tmp_path):
    def run(*more, model=model) -> int:
        arguments = ["segment", scan, "-o", tmp_path / "out", "--model", model, "--device", "cpu"]
        return main([str(a) for a in (*arguments, *more)])

    return run


def content(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_files_say_what_the_written_samples_are(segment, scan, tmp_path, capsys):
    names = "variance,entropy,expected_entropy,mutual_information,agreement,probability"
    assert segment("--samples", 5, "--seed", 4, "--keep-samples", "probabilities",
                   "--uncertainty", names, "--consensus", "majority") == 0  # fmt: skip
    out, source = tmp_path / "out", sitk.ReadImage(str(scan))
    expected = {f"uncertainty_{name}.nii.gz" for name in names.split(",")[:-1]}
    expected |= {f"uncertainty_probability_{k}.nii.gz" for k in range(3)}
    assert {p.name for p in out.iterdir()} == PLAIN | expected | {"samples", "volumes.csv"}
    assert {p.name for p in (out / "samples").iterdir()} == {
        f"{kind}_{n:03}.nii.gz" for kind in ("sample", "probabilities") for n in range(1, 6)
    }

    labels = np.stack([read(out / "samples" / f"sample_{n:03}.nii.gz") for n in range(1, 6)])
    p = np.stack([read(out / "samples" / f"probabilities_{n:03}.nii.gz") for n in range(1, 6)])
    assert labels.dtype == np.uint8 and p.shape == (5, 3, *labels.shape[1:])
    np.testing.assert_array_equal(labels, p.argmax(1))
    for name in expected | {"segmentation.nii.gz", "samples/sample_001.nii.gz"}:
        image = sitk.ReadImage(str(out / name))
        assert image.GetSize() == source.GetSize()
        assert image.GetDirection() == pytest.approx(source.GetDirection(), abs=1e-6)
        assert image.GetOrigin() == pytest.approx(source.GetOrigin(), abs=1e-4)

    def map_of(name):
        values = read(out / f"uncertainty_{name}.nii.gz")
        assert values.dtype == np.float32
        return values

    variance = p.astype(np.float64).var(0).sum(0) / 2
    np.testing.assert_allclose(map_of("variance"), variance, atol=1e-6)
    assert variance.max() > 0.01
    frequency = np.stack([(labels == k).mean(0) for k in range(3)])
    np.testing.assert_allclose(map_of("agreement"), frequency.max(0), rtol=1e-6)
    for k in range(3):
        np.testing.assert_allclose(map_of(f"probability_{k}"), p[:, k].mean(0), atol=1e-6)
    information = map_of("entropy") - map_of("expected_entropy")
    np.testing.assert_allclose(map_of("mutual_information"), information, atol=1e-5)

    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    samples = report["samples"]
    assert (samples["number"], samples["seed"], samples["consensus"]) == (5, 4, "majority")
    assert report["options"]["mrf"] is True and "disagreement" in samples["meaning"]
    assert samples["maps"]["variance"]["maximum"] == pytest.approx(1 / 3)
    consensus, ml = read(out / "segmentation.nii.gz"), np.prod(source.GetSpacing()) / 1000
    with (out / "volumes.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["sample"] for row in table] == list("12345")
    for structure, entry in zip(samples["structures"], report["classes"], strict=True):
        value = structure["value"]
        volumes = (labels == value).sum((1, 2, 3)) * ml
        assert structure["volume_ml"]["mean"] == pytest.approx(volumes.mean(), rel=1e-4)
        column = [float(row[f"{structure['segment_id']}_ml"]) for row in table]
        assert column == pytest.approx(list(volumes), abs=6e-4)
        assert entry["volume_ml"] == pytest.approx((consensus == value).sum() * ml, rel=1e-3)
    assert "from the least to the largest of 5 samples" in capsys.readouterr().out
    # Image, consensus, disagreement, and five samples in two rows.
    height, width = read(out / "preview.png").shape[:2]
    assert height * 3 == width * 5


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (1, ""),
        (18, ", 1.0 to 2.0 ml from the least to the largest of 18 samples"),
        (19, ", 1.0 to 2.0 ml hold a further sample with 90 % (19 drawn)"),
    ],
)
def test_an_interval_is_called_what_it_is(samples, said):
    assert _interval({"p5": 1.0, "p95": 2.0}, samples) == said


def test_seeds(segment, tmp_path):
    """The same seed gives the same files; the first samples are the same however many follow."""

    def labels(*more):
        assert segment("--samples", 3, "--keep-samples", "--overwrite", *more) == 0
        folder = tmp_path / "out" / "samples"
        return np.stack([read(file) for file in sorted(folder.iterdir())])

    first = labels("--seed", 1)
    np.testing.assert_array_equal(labels("--seed", 1), first)
    np.testing.assert_array_equal(labels("--seed", 1, "--samples", 5)[:3], first)
    assert (labels("--seed", 2) != first).any()
    np.testing.assert_array_equal(labels(), labels("--seed", 0))


def test_without_asking_only_what_is_small_is_written(segment, tmp_path):
    assert segment("--samples", 2, "--consensus", "staple", "--no-mrf") == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == PLAIN | {"volumes.csv"}
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["options"]["mrf"] is False
    assert "Comparing the samples" in report["timings_s"]


def test_results_of_an_earlier_run_do_not_mix(segment, tmp_path, capsys):
    out = tmp_path / "out"
    assert segment("--samples", 3, "--keep-samples", "--uncertainty", "variance") == 0
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    before = content(out)
    assert segment("--samples", 2) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert content(out) == before
    assert segment("--samples", 2, "--keep-samples", "--overwrite") == 0
    assert {p.name for p in (out / "samples").iterdir()} == {
        "sample_001.nii.gz", "sample_002.nii.gz"
    }  # fmt: skip
    assert not list(out.glob("uncertainty_*"))
    assert segment("--overwrite") == 0
    assert {p.name for p in out.iterdir()} == PLAIN | {"notes.txt"}


def test_files_of_others_among_the_samples_stay(segment, tmp_path):
    mine = tmp_path / "out" / "samples" / "blood.csv"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work", encoding="utf-8")
    assert segment("--samples", 2, "--keep-samples") == 0
    assert len(list(mine.parent.iterdir())) == 3
    assert segment("--samples", 2) == 1
    assert segment("--overwrite") == 0
    assert list(mine.parent.iterdir()) == [mine]
    assert mine.read_text(encoding="utf-8") == "years of work"


@pytest.mark.parametrize(
    ("locked", "new"),
    [("report.json", False), ("sample_002.nii.gz", False), ("volumes.csv", True)],
    ids=["early", "late", "new"],
)
def test_failure_to_replace_puts_the_earlier_results_back(
    segment, tmp_path, monkeypatch, capsys, locked, new
):
    """As on Windows, where a file cannot be moved that a viewer has open."""
    out, replace = tmp_path / "out", os.replace
    assert segment("--samples", 2, "--keep-samples", "--uncertainty", "entropy") == 0
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    before = content(out)

    def in_use(source, target):
        if source.name == locked and (source.parent.name == "new") == new:
            raise PermissionError(13, "The file is being used by another process")
        replace(source, target)

    monkeypatch.setattr(results.os, "replace", in_use)
    assert segment("--samples", 3, "--overwrite") == 1
    printed = capsys.readouterr().err
    assert "used by another process" in printed and "earlier results were kept" in printed
    assert content(out) == before
    assert {p.name for p in out.iterdir() if p.is_dir()} == {"samples"}
    monkeypatch.undo()
    assert segment("--samples", 3, "--overwrite") == 0
    assert not (out / "samples").exists()


def test_what_cannot_be_put_back_is_not_deleted(segment, tmp_path, monkeypatch, capsys):
    out, replace, calls = tmp_path / "out", os.replace, []
    assert segment() == 0
    before = sorted(content(out).values())

    def two_only(source, target):
        calls.append(source)
        if len(calls) > 2:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(results.os, "replace", two_only)
    assert segment("--overwrite") == 1
    (old,) = out.glob(".partial-*/old")
    assert f"could not be put back and are in {old}" in capsys.readouterr().err
    assert sorted(content(out).values()) == before


def test_maps_of_an_mrf_unets_posterior(segment, tiny_checkpoint, tmp_path, capsys):
    assert segment("--uncertainty", "entropy,variance", model=tiny_checkpoint) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    for name, entry in report["maps"].items():
        values = read(tmp_path / "out" / entry["file"])
        assert values.dtype == np.float32 and 0 < values.max() <= entry["maximum"], name
    assert set(report["maps"]) == {"entropy", "variance"}
    result = read_result_folder(tmp_path / "out")
    assert result.samples is None and list(result.maps) == list(report["maps"])
    for name, values in result.maps.items():
        np.testing.assert_array_equal(values, read(tmp_path / "out" / f"uncertainty_{name}.nii.gz"))
    assert segment("--uncertainty", "agreement", "--overwrite", model=tiny_checkpoint) == 1
    assert "entropy and variance only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", 0], "From 1 to 1000"),
        (["--samples", 10_000], "From 1 to 1000"),
        (["--uncertainty", "variance"], "Ask for samples"),
    ],
)
def test_what_cannot_be_done_is_one_line(segment, tmp_path, capsys, arguments, message):
    assert segment(*arguments) == 1
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_model_without_samples(segment, tiny_checkpoint, tmp_path, capsys):
    assert segment("--samples", 2, model=tiny_checkpoint) == 1
    assert "Choose a Probabilistic U-Net model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seed", 1],
        ["--keep-samples"],
        ["--consensus", "mean"],
        ["--samples", "many"],
        ["--samples", 2, "--consensus", "median"],
        ["--samples", 2, "--uncertainty", "epistemic"],
    ],
    ids=str,
)
def test_wrong_usage(segment, arguments):
    with pytest.raises(SystemExit) as caught:
        segment(*arguments)
    assert caught.value.code == 2


def test_scan_after_an_option_that_may_have_a_value(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["segment", "-o", "out", "--samples", "2", "--keep-samples", "scan.nii.gz"])
    assert caught.value.code == 2
    assert "'scan.nii.gz' is neither labels nor probabilities" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [[], ["probabilities"]])
def test_full_disk_leaves_the_earlier_results(segment, tmp_path, monkeypatch, capsys, kept):
    assert segment("--samples", 2, "--keep-samples") == 0
    before = content(tmp_path / "out")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "write_label_map", full)
    monkeypatch.setattr("MRFUNetSegmentationLib.cli.segment.write_map", full)
    assert segment("--samples", 3, "--keep-samples", *kept, "--overwrite") == 1
    assert "No space left" in capsys.readouterr().err
    assert content(tmp_path / "out") == before


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(
    ("number", "kept"),
    [
        (signal.SIGTERM, []),
        (signal.SIGINT, ["--keep-samples", "probabilities"]),
        (signal.SIGKILL, ["--keep-samples"]),
    ],
    ids=str,
)
def test_killed_between_two_samples(scan, model, tmp_path, number, kept):
    out = tmp_path / "out"
    program = (
        # Where tests run in the background, SIGINT may be ignored, and children inherit that.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"import sys; sys.path[:0] = {[p for p in sys.path if p]}\n"
        "import time\n"
        "from MRFUNetSegmentationLib.inference import latent_space\n"
        "compress = latent_space.compress\n"
        "def slowly(labels):\n"
        "    print('drawn', flush=True); time.sleep(0.3); return compress(labels)\n"
        "latent_space.compress = slowly\n"
        "from MRFUNetSegmentationLib.cli.main import main\n"
        f"sys.exit(main({['segment', str(scan), '-o', str(out), '--model', str(model)]!r}"
        f" + ['--device', 'cpu', '--samples', '100', *{kept!r}]))"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for _ in range(2):
        assert run.stdout.readline() == "drawn\n"
    run.send_signal(number)
    code = run.wait(20)
    if number != signal.SIGKILL:
        assert code == 1 and "interrupted; nothing was written" in run.stderr.read()
    assert not out.exists() or not list(out.iterdir())


# --- Reading it back ------------------------------------------------------------------------


def test_result_folder_is_read_back(segment, scan, tmp_path):
    out = tmp_path / "out"
    assert segment("--samples", 3, "--keep-samples", "--uncertainty", "entropy") == 0
    written = read_result_folder(out)
    result = written.samples
    assert written.source == scan.resolve() and written.card.name == "tiny" == result.model
    assert written.labels is result.consensus and not written.maps
    assert (result.number, result.seed, list(result.maps)) == (3, 0, ["entropy"])
    np.testing.assert_array_equal(result.labels(2), read(out / "samples" / "sample_003.nii.gz"))
    np.testing.assert_array_equal(result.consensus, read(out / "segmentation.nii.gz"))
    assert result.per_sample[0]["volumes_ml"].keys() == {1, 2}
    (out / "samples" / "sample_002.nii.gz").unlink()
    with pytest.raises(InputError, match="1 of 3 samples are missing"):
        read_result_folder(out)
    with pytest.raises(InputError, match="there is no report"):
        read_result_folder(tmp_path)


def test_result_folder_without_samples(segment, tmp_path):
    assert segment() == 0
    result = read_result_folder(tmp_path / "out")
    assert result.card.name == "tiny" and result.samples is None and not result.maps
    np.testing.assert_array_equal(result.labels, read(tmp_path / "out" / "segmentation.nii.gz"))
    (tmp_path / "out" / "segmentation.nii.gz").unlink()
    with pytest.raises(InputError, match=r"(?s)cannot be read.*Segment the scan again"):
        read_result_folder(tmp_path / "out")


def test_view_without_slicer_or_results(segment, tmp_path, monkeypatch, capsys):
    assert main(["view", str(tmp_path)]) == 1
    assert "mrfunet segment" in capsys.readouterr().err
    assert segment() == 0
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["view", str(tmp_path / "out")]) == 1
    assert "Install 3D Slicer" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="makes a shell script")
def test_view_starts_slicer(segment, tmp_path, capfd):
    assert segment("--samples", 2) == 0
    program = tmp_path / "Slicer"
    program.write_text('#!/bin/sh\necho "$1 $2"\nexit 3\n', encoding="utf-8")
    program.chmod(0o755)
    capfd.readouterr()
    assert main(["view", str(tmp_path / "out"), "--slicer", str(program)]) == 3
    option, code = capfd.readouterr().out.split(maxsplit=1)
    assert option == "--python-code"
    assert code.strip().endswith(f"show_result_folder({str(tmp_path / 'out')!r})")
    compile(code.strip(), "code", "exec")


def test_time_of_reading(segment, tmp_path):
    """Wrong requests are refused before torch is imported."""
    program = (
        # Where tests run in the background, SIGINT may be ignored, and children inherit that.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"import sys; sys.path[:0] = {[p for p in sys.path if p]}\n"
        "from MRFUNetSegmentationLib.cli.main import main\n"
        "assert main(['segment', 'a', '-o', 'b', '--samples', '0']) == 1\n"
        "assert main(['view', 'a']) == 1\n"
        "assert 'torch' not in sys.modules"
    )
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", program], check=True)
    assert time.monotonic() - started < 30


def test_what_the_user_should_know_of_the_scan_is_printed(model, scan, tmp_path, capsys):
    path = tmp_path / "scan.nii"
    sitk.WriteImage(sitk.ReadImage(str(scan)), str(path))
    with_header(path, 254, "i2", 2)
    with_header(path, 292, "f4", 500)
    assert main(["segment", str(path), "-o", str(tmp_path / "out"), "--model", str(model),
                 "--device", "cpu", "--samples", "2"]) == 0  # fmt: skip
    assert "warning: The file's header puts the scan in two places" in capsys.readouterr().out
