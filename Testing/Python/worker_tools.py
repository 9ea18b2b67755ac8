"""What the tests of the worker and of the logic share."""

import os
import subprocess
import time
from pathlib import Path

import MRFUNetSegmentationLib
import numpy as np
from MRFUNetSegmentationLib.inference.volume import Geometry, Volume

PACKAGE_PARENT = Path(MRFUNetSegmentationLib.__file__).parents[1]


def blobs(shape=(80, 72, 64), dtype=np.int16) -> np.ndarray:
    """Smooth random image [k, j, i] in which several classes occur."""
    coarse = np.random.default_rng(1).uniform(0, 1000, [-(-n // 16) for n in shape])
    fine = coarse.repeat(16, 0).repeat(16, 1).repeat(16, 2)
    return fine[tuple(slice(n) for n in shape)].astype(dtype)


def small_volume() -> Volume:
    """Volume that takes a fraction of a second."""
    return Volume(blobs(), Geometry((64, 72, 80), (3.0, 3.0, 2.5)))


def large_volume() -> Volume:
    """Volume that takes more than a second, with less than a second between two checks."""
    return Volume(blobs((160, 160, 160)), Geometry((160, 160, 160), (1.0, 1.0, 1.0)))


def wait_until(condition, seconds: float = 10.0) -> bool:
    """Whether the condition comes true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def poll_until_progress(job, seconds: float = 30.0) -> None:
    """Poll a job, or a run of the logic, until its computation has begun."""
    stages = []
    job.on_progress = lambda stage, fraction: stages.append(stage)

    def begun() -> bool:
        job.poll()
        return len(stages) > 0 or job.state != "running"

    assert wait_until(begun, seconds) and job.state == "running", (job.state, job.error)


def is_running(pid: int) -> bool:
    """Whether the process exists and is not merely waiting to be reaped."""
    ps = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(ps.stdout.strip()) and not ps.stdout.startswith("Z")


def environment_with(folder: Path, **code: str) -> dict[str, str]:
    """Environment in which Python finds modules of the given names and code first."""
    for name, text in code.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(folder)}
