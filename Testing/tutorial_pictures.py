"""The pictures of the README's tutorial: follows it in a running Slicer, with a picture of the window after each step.

    make pictures SLICER=/path/to/Slicer        # a Slicer in which torch is installed

runs this file twice: in Slicer it writes step_N.png, and in .venv it makes small pictures of them for docs/tutorial.
"""

import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

WIDTH, COLORS, MOST_BYTES = 1000, 128, 120_000


def module(title):
    """Opens a module by its title; returns its widget."""
    import slicer

    names = slicer.app.moduleManager().modulesNames()
    name = next((n for n in names if slicer.app.moduleManager().module(n).title == title), None)
    if name is None:
        raise LookupError(f"Slicer has no module {title}")
    slicer.util.selectModule(name)
    live(0.5)
    return slicer.app.moduleManager().module(name).widgetRepresentation()


def live(seconds, until=lambda: False):
    """Lets Slicer answer for some time, or until something holds; True if it does."""
    import slicer

    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        slicer.app.processEvents()
        time.sleep(0.02)
    return until()


def wait(until):
    assert live(600.0, until), "the panel did not say it in ten minutes"


def reveal(widget):
    """Scrolls the module's panel to what was used last."""
    above = widget
    while above is not None and above.className() != "QScrollArea":
        above = above.parent()
    if above is not None:
        above.ensureWidgetVisible(widget, 0, 250)


def take(folder):
    """In Slicer: follows the tutorial, a picture after each step."""
    import qt
    import slicer
    from tutorial_steps import Follower, steps

    window = slicer.util.mainWindow()
    window.showNormal()
    window.resize(1400, 900)
    for probe in slicer.util.findChildren(window, name="DataProbeCollapsibleWidget"):
        probe.collapsed = True
    live(1.0)
    hand = Follower(module, wait, lambda: qt.QPoint(0, 0))
    for step in steps():
        hand.follow(step)
        reveal(hand.used)
        live(2.0)
        slicer.util.forceRenderAllViews()
        live(0.5)
        for name in step.pictures:
            assert window.grab().save(str(Path(folder) / Path(name).name)), folder
        print(f"step {step.number}: {step.title}", flush=True)


def compress(folder, target):
    from PIL import Image

    for path in sorted(Path(folder).glob("step_*.png")):
        with Image.open(path) as picture:
            small = picture.convert("RGB").resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.LANCZOS)
        small = small.quantize(COLORS, kmeans=2, dither=Image.Dither.NONE)
        target.mkdir(parents=True, exist_ok=True)
        small.save(target / path.name, optimize=True)
        assert (target / path.name).stat().st_size < MOST_BYTES, path


def main_in_slicer(folder):
    import slicer

    try:
        take(folder)
    except Exception:
        traceback.print_exc()
        return slicer.util.exit(1)
    slicer.util.exit(0)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        compress(sys.argv[1], Path(sys.argv[2]))
    else:
        import qt

        qt.QTimer.singleShot(1500, lambda: main_in_slicer(sys.argv[1]))
