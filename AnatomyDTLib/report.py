"""Pictures and tables of a forecast: volumes.csv, forecast.png, forecast.gif.

Slices are drawn in the radiological way (anterior or superior up, the patient's left on the right) and in
true proportions. Class membership is interpolated between voxels with a Gaussian of a third of the
larger voxel side, so that thick slices do not look like stairs; the numbers come from the label maps.
"""

from __future__ import annotations

import colorsys
import csv
import io
import itertools

import numpy as np

from . import presets
from .plan import Radiotherapy, Surgery

MOST_COLUMNS = 5
MOST_FRAMES = 60
_PANEL = (0.055, 0.06, 0.075)        # behind the slices
_OUTLINE = (1.0, 1.0, 1.0)
_INK = "#23272e"
_ROLE_WORDS = {
    "white": "White matter", "grey": "Grey matter", "organ": "Organs", "csf": "CSF", "ventricle": "Ventricles",
    "vessel": "Vessels", "barrier": "Falx, skull", "cavity": "Resection cavity", "necrosis": "Necrosis, treated tumor",
    "edema": "Edema", "tumor": "Tumor", "background": "Background",
}


def tumor_volume_ml(forecast) -> np.ndarray:
    """(T,) volume of the tumor classes together (roles tumor and edema), mL."""
    return forecast.volume_ml[:, list(forecast.plan.anatomy.tumors)].sum(axis=1)


def volumes_csv(forecast) -> str:
    """One row per day: day, mL of each tissue but the background, of the tumor classes together, of tumor cells."""
    tissues = forecast.plan.anatomy.tissues
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    counted = forecast.tumor_cells_ml is not None
    header = ["day"] + [f"{t.name} (mL)" for t in tissues[1:]] + ["tumor total (mL)"]
    table.writerow(header + ["tumor cells (mL at full density)"] * counted)
    for i, (day, volumes, total) in enumerate(zip(forecast.days, forecast.volume_ml, tumor_volume_ml(forecast))):
        numbers = [*volumes[1:], total] + ([forecast.tumor_cells_ml[i]] if counted else [])
        table.writerow([f"{float(day):g}"] + [f"{v:.4f}" for v in numbers])
    return text.getvalue()


class _View:
    """The planes through the tumor, cropped to the anatomy, ready to draw.

    planes: (name, axis of the slice, letters left/right/top/bottom), of those that the image has
    """

    def __init__(self, forecast, geometry=None):
        self.anatomy = forecast.plan.anatomy
        self.labels, spacing = oriented(forecast.labels, forecast.spacing_mm, geometry)
        tumor = np.isin(self.labels, self.anatomy.tumors)
        shown = tumor if tumor.any() else self.labels > 0
        area = shown.sum(axis=0, dtype=np.float64)
        self.at = [int(area.sum(axis=tuple(b for b in range(3) if b != a)).argmax()) for a in range(3)]
        occupied = (self.labels > 0).any(axis=0)
        self.box = []
        for a in range(3):
            found = np.flatnonzero(occupied.any(axis=tuple(b for b in range(3) if b != a)))
            first, last = (found[0], found[-1]) if found.size else (0, occupied.shape[a] - 1)
            margin = int(np.ceil(4.0 / spacing[a])) if occupied.shape[a] > 1 else 0
            self.box.append(slice(max(0, first - margin), last + 1 + margin))
        self.spacing = spacing
        named = (("axial", 0, "RLAP"), ("coronal", 1, "RLSI"), ("sagittal", 2, "APSI"))
        size = occupied.shape
        self.planes = [p for p in named if all(size[b] > 1 for b in range(3) if b != p[1])] or [named[0]]
        self.flat = len(self.planes) == 1
        colors = [t.color or presets.ROLE_COLORS[t.role] for t in self.anatomy.tissues]
        self.colors = np.array([_PANEL] + list(colors[1:]))

    def size_mm(self, plane) -> tuple[float, float]:
        """(height, width) of a plane as drawn."""
        rows, columns = (b for b in range(3) if b != plane[1])
        return tuple((self._cut(b).stop - self._cut(b).start) * self.spacing[b] for b in (rows, columns))

    def _cut(self, axis):
        start, stop, _ = self.box[axis].indices(self.labels.shape[axis + 1])
        return slice(start, stop)

    def draw(self, frame: int, plane, pixel_mm: float) -> tuple[np.ndarray, np.ndarray]:
        """((H, W, 3) colours in 0..1, (H, W) tumor membership in 0..1) of a frame, `pixel_mm` per pixel."""
        where = tuple(self.at[b] if b == plane[1] else self._cut(b) for b in range(3))
        cut = self.labels[frame][where]
        if plane[1] != 0:
            cut = cut[::-1]              # superior at the top
        height, width = self.size_mm(plane)
        sides = (height / cut.shape[0], width / cut.shape[1])
        blur = 0.33 * max(sides)
        rows = _between(cut.shape[0], max(1, round(height / pixel_mm)), blur / sides[0])
        columns = _between(cut.shape[1], max(1, round(width / pixel_mm)), blur / sides[1])
        present = np.unique(cut)
        member = np.stack([(columns @ (rows @ (cut == k).astype(np.float32)).T).T for k in present])
        tumor = member[np.isin(present, self.anatomy.tumors)].sum(axis=0)
        sharp = member * member * member
        sharp *= sharp                   # to the power of six: nearly the argmax, with a soft edge of a pixel
        color = np.einsum("khw,kc->hwc", sharp, self.colors[present].astype(np.float32))
        return color / sharp.sum(axis=0)[..., None], tumor

    def pixel_mm(self, pixels: int) -> float:
        """Pixel size at which the widest plane is `pixels` wide."""
        return max(max(self.size_mm(p)) for p in self.planes) / pixels


def _between(voxels: int, pixels: int, sigma: float):
    """(pixels, voxels) sparse weights that sum to 1 over the voxels: a Gaussian of `sigma` voxels around each pixel's centre."""
    from scipy.sparse import csr_array          # a dense product of these small matrices spends its time starting threads

    at = np.clip((np.arange(pixels) + 0.5) * voxels / pixels - 0.5, 0, voxels - 1)
    weights = np.exp(-0.5 * ((at[:, None] - np.arange(voxels)) / sigma) ** 2)
    weights[weights < 1e-4] = 0.0
    return csr_array((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))


def oriented(frames, spacing_mm, geometry) -> tuple[np.ndarray, tuple[float, float, float]]:
    """(frames (T, S, P, L), spacing) with axes towards superior, posterior and left, as near as the voxel grid allows.

    frames: (T, *S) in the voxel order of `geometry`, None where that is not known
    """
    spacing = tuple(spacing_mm)
    if frames.ndim == 3:
        frames, spacing = frames[:, None], (1.0,) + spacing
    if geometry is None:
        return frames, spacing
    toward = geometry.steps_mm[:, ::-1] / np.linalg.norm(geometry.steps_mm, axis=1, keepdims=True)     # columns S, P, L
    order = max(itertools.permutations(range(3)), key=lambda o: sum(abs(toward[o[a], a]) for a in range(3)))
    frames = frames.transpose(0, *(o + 1 for o in order))
    flips = tuple(slice(None, None, -1 if toward[o, a] < 0 else 1) for a, o in enumerate(order))
    return frames[(slice(None), *flips)], tuple(spacing[o] for o in order)


def _chosen(days, most: int) -> list[int]:
    """At most `most` indices, the first and the last among them, evenly spread in time."""
    if len(days) <= most:
        return list(range(len(days)))
    targets = np.linspace(float(days[0]), float(days[-1]), most)
    return sorted({int(np.abs(np.asarray(days, dtype=float) - t).argmin()) for t in targets})


def picture(forecast, geometry=None) -> bytes:
    """A PNG: slices through the tumor over time with its outline at baseline, and the volume curves."""
    import matplotlib

    # the object interface: nothing of the caller's own pyplot state is touched
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    view = _View(forecast, geometry)
    frames = _chosen(forecast.days, MOST_COLUMNS)
    sizes = [view.size_mm(p) for p in view.planes]
    width_mm = max(w for _, w in sizes)
    inches = 2.35 if len(frames) >= 4 else 3.0
    heights = [min(1.6, h / width_mm) * inches for h, _ in sizes]
    head, legend, curves, gap = 0.95, 0.45, 2.5, 0.08
    total_width = max(7.5, inches * len(frames) + 0.5)
    total = head + sum(heights) + gap * len(heights) + legend + curves + 0.55
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9, "text.color": _INK, "axes.labelcolor": _INK,
                                "axes.edgecolor": "#9aa1ab", "xtick.color": _INK, "ytick.color": _INK}):
        figure = Figure(figsize=(total_width, total), facecolor="white")
        FigureCanvasAgg(figure)
        _headline(figure, forecast, total)
        top = total - head
        left = (total_width - inches * len(frames) + 0.3) / 2
        pixel_mm = view.pixel_mm(320)
        for plane, height in zip(view.planes, heights):
            for column, frame in enumerate(frames):
                box = [left + column * inches, top - height, inches - gap, height]
                axes = figure.add_axes([box[0] / total_width, box[1] / total, box[2] / total_width, box[3] / total], facecolor=_PANEL)
                _slice(axes, view, plane, frame, frames[0], pixel_mm, width_mm, column == 0)
                if plane is view.planes[0]:
                    axes.set_title(f"day {float(forecast.days[frame]):g}", fontsize=11, fontweight="bold", pad=5)
                if column == 0 and not view.flat:
                    axes.set_ylabel(plane[0], fontsize=10, labelpad=4)
            top -= height + gap
        _legend(figure, view, (top - 0.1) / total)
        bottom, high = 0.5 / total, curves * 0.86 / total
        _curves(figure, forecast, [0.62 / total_width, bottom], (total_width - 1.7) / 2 / total_width, high, total_width)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=120, metadata={"Software": None})
    return small_png(stream.getvalue())


def small_png(data: bytes) -> bytes:
    """The picture with 256 colours, a fraction of the size."""
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _headline(figure, forecast, total) -> None:
    volume = tumor_volume_ml(forecast)
    last = float(forecast.days[-1])
    figure.text(0.5, 1 - 0.28 / total, f"Tumor forecast: {volume[0]:.1f} mL now, {volume[-1]:.1f} mL on day {last:g}",
                ha="center", va="center", fontsize=14, fontweight="bold")
    figure.text(0.5, 1 - 0.54 / total, treatment_words(forecast.plan), ha="center", va="center", fontsize=9.5, color="#5a616b")


def treatment_words(plan) -> str:
    """What a plan gives, in one line."""
    words = []
    for t in plan.treatments:
        if isinstance(t, Surgery):
            words.append(f"resection on day {t.day:g}")
        elif isinstance(t, Radiotherapy):
            dose = f"{t.fractions} x {t.dose_gy:g} Gy" if t.dose_gy is not None else f"{t.fractions} fractions of a dose map"
            words.append(f"radiotherapy {dose} from day {t.start_day:g}")
        else:
            words.append(f"{t.drug}, {len(t.days)} doses from day {min(t.days):g}")
    return "; ".join(words) if words else "no treatment"


def _slice(axes, view, plane, frame, baseline, pixel_mm, width_mm, first) -> None:
    color, _ = view.draw(frame, plane, pixel_mm)
    height, width = view.size_mm(plane)
    axes.imshow(np.clip(color, 0, 1), extent=(0, width, height, 0), interpolation="bilinear", aspect="equal")
    _, tumor = view.draw(baseline, plane, pixel_mm)
    if frame != baseline and (tumor > 0.5).any():
        y = (np.arange(tumor.shape[0]) + 0.5) * height / tumor.shape[0]
        x = (np.arange(tumor.shape[1]) + 0.5) * width / tumor.shape[1]
        if min(tumor.shape) > 1:
            axes.contour(x, y, tumor, levels=[0.5], colors=[_OUTLINE], linewidths=1.1)
    middle = width / 2
    axes.set_xlim(middle - width_mm / 2, middle + width_mm / 2)
    axes.set_ylim(height, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    if not first:
        return
    pale = {"color": "#d7dbe1", "fontsize": 7.5, "path_effects": _dark_edge(1.6)}
    if not view.flat:
        axes.text(0.03, 0.5, plane[2][0], transform=axes.transAxes, ha="left", va="center", **pale)
        axes.text(0.97, 0.5, plane[2][1], transform=axes.transAxes, ha="right", va="center", **pale)
        axes.text(0.5, 0.98, plane[2][2], transform=axes.transAxes, ha="center", va="top", **pale)
    bar = next((b for b in (50, 20, 10, 5, 2, 1) if b < 0.4 * width_mm), width_mm / 4)
    start = middle - width_mm / 2 + 0.05 * width_mm
    axes.plot([start, start + bar], [0.94 * height] * 2, color="white", linewidth=2, solid_capstyle="butt", path_effects=_dark_edge(3.2))
    axes.text(start, 0.915 * height, f"{bar:g} mm", ha="left", va="bottom", color="white", fontsize=7.5, path_effects=_dark_edge(1.6))


def _legend(figure, view, top) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    tissues = view.anatomy.tissues
    present = [int(k) for k in np.unique(view.labels) if k]
    if len(present) > 10:
        entries = list({tissues[k].role: (_ROLE_WORDS[tissues[k].role], view.colors[k]) for k in reversed(present)}.values())[::-1]
    else:
        entries = [(tissues[k].name, view.colors[k]) for k in present]
    handles = [Patch(facecolor=tuple(c), edgecolor="#7d848e", linewidth=0.5, label=name) for name, c in entries]
    handles.append(Line2D([], [], color="white", linewidth=1.6, label="tumor on day 0", path_effects=_dark_edge(3)))
    figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, top), ncols=-(-len(handles) // -(-len(handles) // 7)), frameon=False,
                  fontsize=8.5, handlelength=1.3, columnspacing=1.4)


def _dark_edge(width):
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=width, foreground="#2b2f36"), Normal()]


def _curves(figure, forecast, corner, width, height, total_width) -> None:
    anatomy, days = forecast.plan.anatomy, np.asarray(forecast.days, dtype=float)
    volume = forecast.volume_ml
    tumor = figure.add_axes([corner[0], corner[1], width, height])
    other = figure.add_axes([corner[0] + width + 0.85 / total_width, corner[1], width, height])
    shown = [k for k in anatomy.tumors if volume[:, k].any()]
    style = {"marker": "o", "markersize": 3.2 if len(days) <= 20 else 0, "linewidth": 1.8}
    if len(shown) > 1:
        tumor.plot(days, tumor_volume_ml(forecast), color=_INK, label="together", **style)
    for k in shown:
        tumor.plot(days, volume[:, k], color=_color(anatomy, k), label=anatomy.tissues[k].name, **style)
    if forecast.tumor_cells_ml is not None:
        tumor.plot(days, forecast.tumor_cells_ml, color=_INK, linewidth=1.2, linestyle="--", label="cells, at full density (also where too thin to see)")
    tumor.set_title("Tumor volume (mL)", fontsize=10, loc="left")
    tumor.set_ylim(bottom=0)
    change = volume - volume[0]
    rest = [k for k in range(1, len(anatomy)) if k not in anatomy.tumors and np.abs(change[:, k]).max() > 0]
    rest = sorted(sorted(rest, key=lambda k: -np.abs(change[:, k]).max())[:5])
    other.axhline(0, color="#9aa1ab", linewidth=0.8)
    for k in rest:
        other.plot(days, change[:, k], color=_readable(_color(anatomy, k)), label=anatomy.tissues[k].name, **style)
    other.set_title("Change of the other tissues (mL)", fontsize=10, loc="left")
    for axes, lines in ((tumor, len(shown) > 1 or forecast.tumor_cells_ml is not None), (other, bool(rest))):
        axes.set_xlim(0, days[-1] * 1.02)
        axes.set_xlabel("day")
        axes.grid(color="#e6e8ec", linewidth=0.7)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        _treatment_marks(axes, forecast.plan, days[-1], axes is tumor)
        if lines:
            axes.legend(frameon=False, fontsize=7.5, loc="best")


def _treatment_marks(axes, plan, last, named) -> None:
    rail = axes.get_xaxis_transform()         # x in days, y as a fraction of the plot's height
    written = {"fontsize": 7, "transform": rail, "va": "top", "clip_on": True}
    for t in plan.treatments:
        days = t.event_days()
        if isinstance(t, Surgery):
            axes.axvline(t.day, color="#2a9d8f", linewidth=1.6, linestyle=(0, (4, 2)))
            word, at, high, ink = "resection", t.day, 0.99, "#1f7a70"
        elif isinstance(t, Radiotherapy):
            axes.axvspan(min(days), max(days) + 1, color="#f2d27a", alpha=0.30, linewidth=0)
            word, at, high, ink = "radiotherapy", min(days), 0.92, "#8a6d1b"
        else:
            axes.plot(days, [0.015] * len(days), "|", color="#7a5ba6", markersize=6, transform=rail, clip_on=False)
            word, at, high, ink = t.drug, min(days), 0.11, "#6a4c96"
        if named:
            axes.text(min(at + 0.012 * last, last), high, word, color=ink, **written)


def _color(anatomy, k):
    tissue = anatomy.tissues[k]
    return tissue.color or presets.ROLE_COLORS[tissue.role]


def _readable(color):
    """The colour's hue, dark and strong enough for a line on white."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*color)
    return colorsys.hls_to_rgb(hue, min(lightness, 0.52), min(0.9, 2 * saturation))


def animation(forecast, geometry=None) -> bytes:
    """A GIF: the planes side by side on each reported day, with the tumor's outline on day 0."""
    from PIL import Image, ImageDraw, ImageFont

    view = _View(forecast, geometry)
    frames = _chosen(forecast.days, MOST_FRAMES)
    pixel_mm = view.pixel_mm(420 if view.flat else 280)
    volume, days = tumor_volume_ml(forecast), np.asarray(forecast.days, dtype=float)
    planes = [view.draw(0, p, pixel_mm) for p in view.planes]
    outlines = [_edge(tumor > 0.5) for _, tumor in planes]
    gap, head, foot = 12, 34, 16
    height = max(t.shape[0] for _, t in planes) + head + foot
    width = max(260, sum(t.shape[1] for _, t in planes) + gap * (len(planes) + 1))
    big, small = ImageFont.load_default(17), ImageFont.load_default(13)
    images = []
    for frame in frames:
        canvas = np.zeros((height, width, 3)) + _PANEL
        x = (width - sum(t.shape[1] for _, t in planes) - gap * (len(planes) - 1)) // 2
        for plane, outline in zip(view.planes, outlines):
            color, _ = view.draw(frame, plane, pixel_mm)
            color[outline] = _OUTLINE
            y = head + (height - head - foot - color.shape[0]) // 2
            canvas[y:y + color.shape[0], x:x + color.shape[1]] = color
            x += color.shape[1] + gap
        image = Image.fromarray(np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8))
        pen = ImageDraw.Draw(image)
        pen.text((gap, 8), f"day {days[frame]:g}", font=big, fill=(255, 255, 255))
        text = f"tumor {volume[frame]:.1f} mL"
        pen.text((width - gap - pen.textlength(text, font=small), 11), text, font=small, fill=(214, 218, 224))
        done = (width - 2 * gap) * days[frame] / days[-1]
        pen.rectangle((gap, height - 7, width - gap, height - 5), fill=(60, 64, 72))
        pen.rectangle((gap, height - 7, gap + done, height - 5), fill=(219, 69, 51))
        images.append(image)
    palette = _palette(images)
    indexed = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    pace = int(np.clip(6000 / len(indexed), 80, 700))
    stream = io.BytesIO()
    indexed[0].save(stream, format="GIF", save_all=True, append_images=indexed[1:], loop=0, optimize=True,
                    duration=[max(pace, 600)] + [pace] * (len(indexed) - 2) + [1500] * (len(indexed) > 1))
    return stream.getvalue()


def _palette(images):
    """One palette for all frames, taken from the first, middle and last."""
    from PIL import Image

    some = [images[0], images[len(images) // 2], images[-1]]
    sheet = Image.new("RGB", (some[0].width, some[0].height * 3))
    for i, image in enumerate(some):
        sheet.paste(image, (0, i * image.height))
    return sheet.quantize(128)


def _edge(mask: np.ndarray) -> np.ndarray:
    inside = mask.copy()
    inside[1:] &= mask[:-1]
    inside[:-1] &= mask[1:]
    inside[:, 1:] &= mask[:, :-1]
    inside[:, :-1] &= mask[:, 1:]
    return mask & ~inside
