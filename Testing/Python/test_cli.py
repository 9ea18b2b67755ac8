"""The command line as a user meets it: files in, a folder out, one line of error."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from MRFUNetSegmentationLib.cli import preview as preview_module
from MRFUNetSegmentationLib.cli import segment as segment_module
from MRFUNetSegmentationLib.cli.main import main
from MRFUNetSegmentationLib.cli.preview import preview
from MRFUNetSegmentationLib.cli.results import ResultFolder
from MRFUNetSegmentationLib.errors import OutputError
from MRFUNetSegmentationLib.inference.result_files import read_result_folder
from MRFUNetSegmentationLib.inference.volume import Geometry, Volume
from test_inference_engine import head
from test_inference_volume import write_dicom

OUTPUTS = {"segmentation.nii.gz", "segmentation.seg.nrrd", "report.json", "preview.png"}


@pytest.fixture
def scan(tmp_path):
    """An oblique volume of 25 x 30 x 17 voxels."""
    image = sitk.GetImageFromArray(head((17, 30, 25)))
    image.SetSpacing((5.0, 7.5, 11.0))
    image.SetOrigin((10, -20, 30))
    c, s = np.cos(0.3), np.sin(0.3)
    image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    path = tmp_path / "scan.nii.gz"
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def segment(scan, tiny_checkpoint, tmp_path):
    def run(*more, source=scan, output=tmp_path / "out") -> int:
        return main(
            ["segment", str(source), "-o", str(output), "--model", str(tiny_checkpoint), *more]
        )

    return run


def names(folder) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_results(segment, scan, tmp_path, capsys, tiny_card):
    assert segment() == 0
    out = tmp_path / "out"
    assert names(out) == OUTPUTS

    source, labels = sitk.ReadImage(str(scan)), sitk.ReadImage(str(out / "segmentation.nii.gz"))
    assert labels.GetSize() == source.GetSize()
    assert labels.GetSpacing() == pytest.approx(source.GetSpacing())
    assert labels.GetOrigin() == pytest.approx(source.GetOrigin(), abs=1e-4)
    assert labels.GetDirection() == pytest.approx(source.GetDirection(), abs=1e-6)
    array = sitk.GetArrayFromImage(labels)
    assert array.max() <= 4

    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    voxel_ml = np.prod(source.GetSpacing()) / 1000
    assert [(c["value"], c["name"]) for c in report["classes"]] == [
        (c.value, c.name) for c in tiny_card.segments
    ]
    for entry in report["classes"]:
        assert entry["volume_ml"] == pytest.approx(
            (array == entry["value"]).sum() * voxel_ml, rel=1e-4
        )
    assert report["model"]["name"] == "tiny"
    assert len(report["model"]["sha256"]) == 64
    assert report["device"].startswith(("cpu", "cuda"))
    assert set(report["versions"]) >= {"mrfunet", "torch", "SimpleITK"}
    (warning,) = report["warnings"]
    assert "slices are thick" in warning
    assert report["options"] == {"mrf": True, "intensities": False, "tolerance": 0.0}

    printed = capsys.readouterr()
    assert "Grey matter" in printed.out
    assert printed.err == ""  # no progress bar in a pipe


def test_seg_nrrd_holds_names_colours_and_terminology(segment, tmp_path, tiny_card):
    segment()
    image = sitk.ReadImage(str(tmp_path / "out" / "segmentation.seg.nrrd"))
    array = sitk.GetArrayFromImage(image)
    label_map = sitk.ReadImage(str(tmp_path / "out" / "segmentation.nii.gz"))
    np.testing.assert_array_equal(array, sitk.GetArrayFromImage(label_map))
    for number, c in enumerate(tiny_card.segments):
        field = lambda name: image.GetMetaData(f"Segment{number}_{name}")  # noqa: B023, E731
        assert field("ID") == c.segment_id
        assert field("Name") == c.name
        assert field("LabelValue") == str(c.value)
        assert [round(255 * float(x)) for x in field("Color").split()] == list(c.color)
        assert f"~SCT^{c.terminology.type.value}^" in field("Tags")
        bounds = [int(x) for x in field("Extent").split()]
        if (array == c.value).any():
            k, j, i = np.nonzero(array == c.value)
            assert bounds == [i.min(), i.max(), j.min(), j.max(), k.min(), k.max()]


def test_seg_nrrd_opens_in_slicer(segment, tmp_path, tiny_card):
    slicer = pytest.importorskip("slicer")
    segment()
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "out" / "segmentation.seg.nrrd"))
    assert storage.ReadData(node) == 1
    segmentation = node.GetSegmentation()
    assert [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())] == [
        c.segment_id for c in tiny_card.segments
    ]
    for c in tiny_card.segments:
        found = segmentation.GetSegment(c.segment_id)
        assert found.GetName() == c.name
        assert [round(255 * x) for x in found.GetColor()] == list(c.color)
        assert found.GetLabelValue() == c.value


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii"])
def test_formats(segment, scan, tmp_path, suffix):
    segment()
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "segmentation.nii.gz")))
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(sitk.ReadImage(str(scan)), str(path))
    assert segment(source=path, output=tmp_path / "other") == 0
    labels = sitk.ReadImage(str(tmp_path / "other" / "segmentation.nii.gz"))
    assert (sitk.GetArrayFromImage(labels) == expected).mean() > 0.999


def test_dicom_folder(segment, tmp_path):
    array = head((17, 30, 25)).astype(np.int16)
    write_dicom(tmp_path / "dicom", array, [8.0 * n for n in range(17)], "1.2.3.5")
    # 0.9 x 0.8 mm in plane is too little extent for an 8 mm grid.
    assert segment(source=tmp_path / "dicom") == 1
    wide = np.repeat(np.repeat(array, 5, axis=1), 5, axis=2)
    write_dicom(tmp_path / "wide", wide, [8.0 * n for n in range(17)], "1.2.3.6")
    assert segment(source=tmp_path / "wide") == 0
    labels = sitk.ReadImage(str(tmp_path / "out" / "segmentation.nii.gz"))
    assert labels.GetSize() == (125, 150, 17)


def test_dicom_folder_of_several_series(segment, tmp_path):
    """What is read back says which of them it was."""
    array = np.repeat(np.repeat(head((17, 30, 25)).astype(np.int16), 5, axis=1), 5, axis=2)
    for series in ("1.2.3.5", "1.2.3.6"):
        write_dicom(tmp_path / "dicom", array, [8.0 * n for n in range(17)], series)
    assert segment(source=tmp_path / "dicom") == 1
    assert segment("--series", "1.2.3.6", source=tmp_path / "dicom") == 0
    result = read_result_folder(tmp_path / "out")
    assert (result.source, result.series) == ((tmp_path / "dicom").resolve(), "1.2.3.6")
    assert segment("--overwrite") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert "series" not in report["input"] and read_result_folder(tmp_path / "out").series is None


def test_earlier_results_are_kept_unless_overwritten(segment, tmp_path, capsys):
    assert segment() == 0
    report = tmp_path / "out" / "report.json"
    report.write_text("mine", encoding="utf-8")
    assert segment() == 1
    assert report.read_text(encoding="utf-8") == "mine"
    assert "--overwrite" in capsys.readouterr().err
    assert segment("--overwrite") == 0
    assert report.read_text(encoding="utf-8") != "mine"


def test_other_files_in_the_folder_stay(segment, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine", encoding="utf-8")
    assert segment() == 0
    assert names(tmp_path / "out") == OUTPUTS | {"notes.txt"}


@pytest.mark.parametrize(
    "name", ["segmentation.nii.gz", "uncertainty_entropy.nii.gz", "samples/sample_001.nii.gz"]
)
def test_the_scan_is_never_replaced(segment, scan, tmp_path, capsys, name):
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    content = scan.rename(mine).read_bytes()
    link = tmp_path / "link.nii.gz"
    link.symlink_to(mine)
    for source in (mine, link):
        assert segment("--overwrite", source=source) == 1
        assert "would be replaced. Choose another folder" in capsys.readouterr().err
    assert mine.read_bytes() == content


def test_files_of_like_names_are_the_users(segment, tmp_path):
    out = tmp_path / "out"
    mine = [
        "uncertainty_T1.nii.gz",
        "samples/sample_anna.nii.gz",
        "samples/probabilities_a1.nii.gz",
    ]
    (out / "samples").mkdir(parents=True)
    for name in mine:
        (out / name).write_text("mine", encoding="utf-8")
    assert segment() == 0 and segment("--overwrite") == 0
    assert [(out / name).read_text(encoding="utf-8") for name in mine] == ["mine"] * 3


def test_a_linked_scan_keeps_its_name(segment, scan, tmp_path):
    """What the link points to may be named by a checksum alone, which tells no format."""
    blob = scan.rename(tmp_path / "3f5a9c")
    scan.symlink_to(blob)
    assert segment() == 0
    assert read_result_folder(tmp_path / "out").source == scan


@pytest.mark.skipif(sys.platform != "linux", reason="names there have an encoding")
def test_folder_whose_name_is_not_in_the_systems_encoding(segment, tmp_path, capsys):
    """ITK would end the process."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    assert segment(output=folder / "out") == 1
    assert "encoding" in capsys.readouterr().err
    folder.mkdir()
    scan = sitk.GetImageFromArray(head((17, 30, 25)))
    sitk.WriteImage(scan, str(tmp_path / "scan.nii.gz"))
    (tmp_path / "scan.nii.gz").rename(folder / "scan.nii.gz")
    os.chdir(folder)
    try:
        assert segment(source="scan.nii.gz") == 1
    finally:
        os.chdir(tmp_path)
    assert "encoding" in capsys.readouterr().err


def test_a_console_without_the_letters(scan, tiny_checkpoint, tmp_path):
    """As on Windows where the output goes to a file; and one whose reader has seen enough."""
    main_ = "from MRFUNetSegmentationLib.cli.main import main; raise SystemExit(main(sys.argv[1:]))"
    code = f"import sys; sys.path[:0] = {[p for p in sys.path if p]}; {main_}"
    arguments = [
        "segment",
        str(scan),
        "--model",
        str(tiny_checkpoint),
        "-o",
        str(tmp_path / "結果"),
    ]
    environment = os.environ | {"PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"written to" in done.stdout
    listing = subprocess.Popen(
        [sys.executable, "-c", code, "models", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    listing.stdout.close()
    assert listing.stderr.read() == b""
    listing.stderr.close()
    assert listing.wait() == 1


def test_failure_while_writing_leaves_no_half_result(segment, tmp_path, monkeypatch, capsys):
    assert segment() == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(preview_module, "preview", full)
    assert segment("--overwrite") == 1
    assert "No space left" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "tpu"], "no such device"),
        (["--model", "no-model"], "neither a file nor a bundled model"),
    ],
)
def test_failures_are_one_line_and_exit_code_1(segment, tmp_path, capsys, arguments, message):
    assert segment(*arguments) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_traceback(segment):
    with pytest.raises(Exception, match="no such device"):
        segment("--device", "tpu", "--debug")


def test_results_of_a_run_that_has_ended_in_the_meantime_are_kept(tmp_path):
    first, second = (
        ResultFolder(tmp_path / "out", tmp_path / "scan.nii.gz", overwrite=False) for _ in range(2)
    )
    with first.writing() as partial:
        (partial / "report.json").write_text("first", encoding="utf-8")
    with (
        pytest.raises(OutputError, match=r"already holds report\.json"),
        second.writing() as partial,
    ):
        (partial / "report.json").write_text("second", encoding="utf-8")
    assert names(tmp_path / "out") == {"report.json"}
    assert (tmp_path / "out" / "report.json").read_text(encoding="utf-8") == "first"


def test_axes_that_the_results_cannot_hold(segment, scan, tmp_path, capsys):
    """NIfTI would move the result beside the scan."""
    image = sitk.ReadImage(str(scan))
    image.SetDirection((1, 0.3, 0, 0, 1, 0, 0, 0, 1))
    path = tmp_path / "sheared.nrrd"
    sitk.WriteImage(image, str(path))
    assert segment(source=path) == 1
    assert "not at right angles" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "too little memory"),
        (PermissionError(13, "Permission denied", "/locked/scan.nii"), "/locked/scan.nii: no perm"),
        (OSError(36, "File name too long", "/a/very/long"), "/a/very/long: File name too long."),
    ],
)
def test_failures_of_the_system_are_no_defects(segment, monkeypatch, capsys, error, said):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(segment_module, "read_volume_file", fail)
    assert segment() == 1
    printed = capsys.readouterr().err
    assert said in printed and "unexpected" not in printed


def test_picture_of_a_few_bright_voxels():
    array = np.zeros((110, 110, 110), np.float32)
    array[50, 50, 51] = 5  # not among those that the window is taken from
    volume = Volume(array, Geometry(array.shape[::-1], (1.0, 1.0, 1.0)))
    picture = preview(volume, np.zeros(array.shape, np.uint8), ())
    assert picture.shape[2] == 3


@pytest.mark.parametrize(("factor", "offset"), [(1e40, 0.0), (1.0, 1e12)])
def test_picture_of_values_that_float32_cannot_hold(factor, offset):
    array = np.random.default_rng(0).random((20, 20, 20))
    geometry = Geometry(array.shape[::-1], (1.0, 1.0, 1.0))
    labels = np.zeros(array.shape, np.uint8)
    same = preview(Volume(array, geometry), labels, ()).astype(int)
    picture = preview(Volume(array * factor + offset, geometry), labels, ())
    assert abs(picture - same).max() <= 1


def test_output_that_is_a_file(segment, tmp_path, capsys):
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    assert segment() == 1
    assert "Choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["segment"],
        ["segment", "x"],
        ["nonsense"],
        ["segment", "x", "-o", "y", "--samples", "2", "--seed", str(2**64)],
    ],
)
def test_usage_errors_exit_with_2(arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_models_as_text_and_json(capsys):
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    for card in json.loads(capsys.readouterr().out):
        assert card["name"] in text
        assert card["licence"] in text


def test_interrupted_run_leaves_nothing(scan, tiny_checkpoint, tmp_path):
    out = tmp_path / "out"
    program = (
        # Where tests run in the background, SIGINT may be ignored, and children inherit that.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"import sys; sys.path[:0] = {[p for p in sys.path if p]}\n"
        "from MRFUNetSegmentationLib.cli import preview\n"
        "import time\n"
        "preview.preview = lambda *a: (print('here', flush=True), time.sleep(60))\n"
        "from MRFUNetSegmentationLib.cli.main import main\n"
        f"sys.exit(main(['segment', {str(scan)!r}, '-o', {str(out)!r}, "
        f"'--model', {str(tiny_checkpoint)!r}]))"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout.readline() == "here\n"
    run.send_signal(signal.SIGINT)
    assert run.wait(20) == 1
    assert "interrupted; nothing was written" in run.stderr.read()
    assert names(out) == set()


def test_preview_shows_the_patients_right_on_the_left():
    array = np.zeros((40, 40, 40), np.float32)
    array[5:35, 5:35, 5:35] = 100
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[15:25, 15:25, 8:14] = 1  # small i: the patient's right, in the LPS world of ITK
    image = sitk.GetImageFromArray(array)

    class Red:
        value, color = 1, (255, 0, 0)

    picture = preview(Volume.from_image(image), labels, [Red])
    assert picture.dtype == np.uint8
    height, width = picture.shape[:2]
    axial = picture[height // 2 :, : width // 3].astype(int)
    red = axial[..., 0] - axial[..., 1] > 50
    assert red.any()
    assert np.nonzero(red)[1].mean() < axial.shape[1] / 2


def test_wrong_paths_are_reported_without_importing_torch():
    program = (
        # Where tests run in the background, SIGINT may be ignored, and children inherit that.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"import sys; sys.path[:0] = {[p for p in sys.path if p]}\n"
        "from MRFUNetSegmentationLib.cli.main import main\n"
        "assert main(['segment', 'no-such-file', '-o', 'no-such-folder']) == 1\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_demo_reads_no_toml():
    """Before Python 3.11 the reader of TOML is a package that only training needs."""
    program = (
        # Where tests run in the background, SIGINT may be ignored, and children inherit that.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"import sys; sys.path[:0] = {[p for p in sys.path if p]}\n"
        "sys.modules['tomllib'] = sys.modules['tomli'] = None\n"
        "from MRFUNetSegmentationLib.cli import demo, main\n"
        "from MRFUNetSegmentationLib.training.metrics import dice"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_picture_goes_where_the_samples_disagree_most():
    array = np.broadcast_to(np.arange(40, dtype=np.float32)[:, None, None], (40, 40, 40)).copy()
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[4:7, 10:30, 10:30] = 1
    disagreement = np.zeros((40, 40, 40), np.float32)
    disagreement[35, 20, 20] = 1

    class Red:
        value, color = 1, (255, 0, 0)

    volume = Volume.from_image(sitk.GetImageFromArray(array))
    picture = preview(volume, labels, [Red], disagreement)
    height, width = picture.shape[:2]
    axial = picture[: height // 3, : width // 3]
    assert axial.max() > 200  # the slice k = 35 is bright, the labels' is dark
