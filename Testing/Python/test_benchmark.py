"""The benchmark on tiny inputs: our own timing path, and what happens without upstream's code."""

import subprocess
import sys

import pytest
from MRFUNetSegmentationLib.benchmark import benchmark_mrf_unet, benchmark_probabilistic_unet
from MRFUNetSegmentationLib.benchmark.measure import Measurement, Row, _with_peak, compare
from MRFUNetSegmentationLib.cli.main import main

TINY = ["--size", "63", "63", "63", "--batch", "1", "8", "8", "--samples", "1", "2"]
TINY += ["--repeats", "1", "--threads", "1"]


def test_without_checkouts_ours_is_timed_and_upstream_said_to_be_skipped(capsys):
    assert main(["benchmark", *TINY]) == 0
    output = capsys.readouterr().out
    assert output.count("upstream skipped: no checkout given") == 2
    assert "--nitorch" in output
    assert "--probunet" in output
    for row in ("U-Net", "mean field, 10 iterations", "both, stopped after", "of 2 samples"):
        assert row in output


def test_module_is_the_command_line():
    result = subprocess.run(
        [sys.executable, "-m", "MRFUNetSegmentationLib", "benchmark", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--nitorch" in result.stdout


def test_mrf_unet_is_measured_in_parts_and_whole():
    rows = list(benchmark_mrf_unet(None, (63, 63, 63), 1))
    assert len(rows) == 4
    assert all(row.ours.seconds > 0 and row.upstream is None for row in rows)
    if sys.platform == "linux":  # at least the logits
        assert rows[0].ours.peak_bytes > 4 * 63**3 * 4


def test_probabilistic_unet_is_measured_for_every_number_of_samples():
    rows = list(benchmark_probabilistic_unet(None, (2, 16, 8), (1, 3), 1))
    assert [row.name for row in rows] == [
        "U-Net and prior",
        "mean and variance of 1 sample",
        "mean and variance of 3 samples",
    ]
    assert all(row.ours.seconds > 0 and row.ratio is None for row in rows)


def test_both_sides_take_turns_after_a_first_call_of_each():
    calls = []
    row = compare(
        "x",
        lambda: calls.append("upstream") or 1,
        lambda: calls.append("ours") or 2,
        repeats=2,
        remark=lambda theirs, ours: f"{theirs} {ours}",
    )
    assert calls == ["upstream", "ours"] * 3
    assert row.remark == "1 2"


def test_ratio_is_how_many_times_faster_ours_is():
    assert Row("x", Measurement(6.0, None), Measurement(1.5, None)).ratio == 4
    assert Row("x", None, Measurement(1.5, None)).ratio is None


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")
def test_peak_memory_counts_what_is_freed_during_the_call():
    def call() -> int:
        block = bytearray(200_000_000)
        block[::4096] = b"x" * len(block[::4096])
        return len(block)

    result, peak = _with_peak(call)
    assert result == 200_000_000
    assert peak == pytest.approx(200e6, rel=0.05)


@pytest.mark.parametrize("option", ["--nitorch", "--probunet"])
def test_folder_without_the_published_code_is_refused(tmp_path, capsys, option):
    modules, path = set(sys.modules), list(sys.path)
    assert main(["benchmark", *TINY, option, str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "cannot be imported" in error
    assert str(tmp_path) in error
    assert sys.path == path
    assert not {m for m in set(sys.modules) - modules if m.startswith("nitorch")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--repeats", "0"], "at least 1"),
        (["--threads", "0"], "at least 1"),
        (["--samples", "0"], "at least 1"),
        (["--size", "62", "63", "63"], "63 voxels"),
        (["--batch", "1", "12", "8"], "divide by 8"),
    ],
    ids=str,
)
def test_impossible_sizes_are_refused(capsys, options, message):
    assert main(["benchmark", *TINY, *options]) == 1
    assert message in capsys.readouterr().err
