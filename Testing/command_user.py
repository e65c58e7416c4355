"""The command line as a user runs it, and patients for it."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from AnatomyDTLib import cli

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(*arguments, code=0, apart=False, limit_file_bytes=None, timeout=100):
    """Runs the command; checks the exit code, and that a mistake is one line without a traceback.

    apart: in an interpreter of its own, as a user does; else in this one, which is the same but for the seconds that
        torch takes to load
    """
    if apart or limit_file_bytes:
        done = in_a_process(arguments, limit_file_bytes, timeout)
    else:
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            returned = cli.main([str(a) for a in arguments])
        done = subprocess.CompletedProcess(arguments, returned, out.getvalue(), error.getvalue())
    assert done.returncode == code, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    if code == 2:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ") and " % " not in line]
        assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
        assert "error" not in done.stdout
    return done


def in_a_process(arguments, limit_file_bytes, timeout):
    def limited():
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_file_bytes, limit_file_bytes))

    return subprocess.run(
        [sys.executable, "-m", "AnatomyDTLib", *map(str, arguments)], capture_output=True, text=True, timeout=timeout,
        env=ENVIRONMENT, preexec_fn=limited if limit_file_bytes else None,
    )


def head(shape=(10, 22, 20)):
    """White matter with a grey rim, a ventricle and a tumor; sample numbering."""
    z, y, x = np.indices(shape)
    labels = np.ones(shape, np.uint8)
    labels[:, :3], labels[:, -3:] = 2, 2
    labels[3:7, 9:13, 3:6] = 4
    labels[(2 * (z - 5)) ** 2 + (y - 11) ** 2 + (x - 12) ** 2 < 14] = 5
    labels[0], labels[-1] = 0, 0
    return labels


def saved(path, array, spacing=(1.5, 1.5, 3.0), direction=(0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, 1.0)):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[:array.ndim])
    if array.ndim == 3:
        image.SetOrigin((5.0, -7.0, 11.0))
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path), True)
    return path


# ---- maps that the plan names


def planned(folder, *treatments, days=(6,), **changes):
    made = json.loads(subprocess.run([sys.executable, "-m", "AnatomyDTLib", "plan", "--preset", "surgery+stupp", "--days", "40"],
                                     capture_output=True, text=True, env=ENVIRONMENT, check=True).stdout)
    made.update(treatments=list(treatments), days=list(days), **changes)
    (folder / "plan.json").write_text(json.dumps(made))
    return folder / "plan.json"
