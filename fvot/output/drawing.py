"""Whether this machine can draw."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

from ..errors import InputError

# A program that draws with VTK.
DRAWING_TRIAL = """
import vtkmodules.vtkRenderingOpenGL2
from vtkmodules.vtkRenderingCore import vtkRenderer, vtkRenderWindow
window = vtkRenderWindow()
window.SetOffScreenRendering(1)
window.SetSize(8, 8)
window.AddRenderer(vtkRenderer())
window.Render()
print("drawn")
"""


def check_can_draw() -> None:
    """`InputError` if this machine cannot draw."""
    if not can_draw():
        raise InputError(
            "this machine cannot draw: VTK finds no OpenGL. On Debian and Ubuntu: apt-get install "
            "--no-install-recommends libegl1 libgl1 libgl1-mesa-dri"
        )


@functools.cache
def can_draw() -> bool:
    """Whether VTK draws off screen here.

    Tried in another process, because VTK ends a process in which it cannot draw. Sets
    VTK_DEFAULT_OPENGL_WINDOW to a window that works; without a display that is EGL's.
    """
    name = "VTK_DEFAULT_OPENGL_WINDOW"
    windows: list[str | None] = ["vtkEGLRenderWindow", None]
    if name in os.environ or os.environ.get("DISPLAY"):
        windows = [os.environ.get(name)]

    for window in windows:
        setting = {name: window} if window else {}
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("OMPI_", "PMIX_", "PRTE_", "PMI_", name))
        }

        try:
            trial = subprocess.run(
                [sys.executable, "-c", DRAWING_TRIAL],
                env=environment | setting,
                capture_output=True,
                text=True,
                timeout=120,
            )
        except subprocess.TimeoutExpired:
            continue
        if trial.returncode == 0 and "drawn" in trial.stdout:
            os.environ.update(setting)
            return True
    return False
