"""The README's tutorial, read as instructions and followed word by word in a panel.

The same code follows it in the test host (test_tutorial.py) and in Slicer (tutorial_pictures.py), so it calls only what
PythonQt and the host have in common. What a step says is understood as follows; every other word is for the reader.

    open the module **Title**          under **Section** (until the sentence ends)       
    press **Button**                   press **▶** (plays until the next day)
    choose **item** as **Field:**      write **text** as **Field:**      set **Field:** to **number**
    tick **Check box**                 drag the slider to the last day
    *sentence*                         the panel says it, at once or when the computation is complete
    **Name**                           anything else in bold can be read in the panel

A field is what stands to the right of its label. Whatever a step names has to be visible, enabled and unique.
"""

import re
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
INSTRUCTION = re.compile("|".join((
    r"open the module \*\*(?P<open>.+?)\*\*",
    r"under \*\*(?P<under>.+?)\*\*",
    r"press \*\*(?P<press>.+?)\*\*",
    r"choose \*\*(?P<choose>.+?)\*\* as \*\*(?P<choose_field>.+?)\*\*",
    r"write \*\*(?P<write>.+?)\*\* as \*\*(?P<write_field>.+?)\*\*",
    r"set \*\*(?P<set_field>.+?)\*\* to \*\*(?P<set>.+?)\*\*",
    r"tick \*\*(?P<tick>.+?)\*\*",
    r"drag the slider to the (?P<drag>first|last) day",
    r"\*\*(?P<name>.+?)\*\*",
    r"(?<!\*)\*(?P<says>[^*]+)\*(?!\*)",
    r"(?P<end>\.)(?=\s|$)",
)), re.IGNORECASE)
FIELDS = {
    "QComboBox", "QLineEdit", "QSpinBox", "QDoubleSpinBox", "ctkComboBox", "ctkDoubleSpinBox", "ctkSliderWidget",
    "ctkPathLineEdit", "qMRMLNodeComboBox", "qMRMLSliderWidget", "qMRMLSpinBox",
}
BUTTONS = {"QPushButton", "QToolButton", "ctkPushButton", "qMRMLSegmentationShow3DButton"}
CHECKS = {"QCheckBox", "ctkCheckBox"}


class TutorialError(AssertionError):
    """The README says what the panel does not have."""


@dataclass(frozen=True)
class Step:
    """number: 1, 2, ...; text: of the README, pictures left out; pictures: their paths"""

    number: int
    title: str
    text: str
    pictures: tuple[str, ...]

    def instructions(self):
        """(what to do, its words) in the order of the text; the key is the name of the group in INSTRUCTION."""
        for found in INSTRUCTION.finditer(self.text):
            words = {key: value for key, value in found.groupdict().items() if value is not None}
            yield next(iter(words)).removesuffix("_field"), words


def steps(readme=README):
    """The steps of the section Tutorial, one per subheading."""
    text = Path(readme).read_text(encoding="utf-8")
    section = re.search(r"^## Tutorial$(.*?)^## ", text, re.DOTALL | re.MULTILINE).group(1)
    parts = re.split(r"^### (?:\d+\. )?(.+)$", section, flags=re.MULTILINE)[1:]
    made = []
    for number, (title, body) in enumerate(zip(parts[::2], parts[1::2]), start=1):
        pictures = tuple(re.findall(r"!\[[^\]]*\]\(([^)]+)\)", body))
        words = " ".join(re.sub(r"!\[[^\]]*\]\([^)]+\)", "", body).split())
        made.append(Step(number, title, words, pictures))
    return made


def _class(widget):
    # PythonQt's metaObject() names its own class; PySide has no className().
    return widget.className() if hasattr(widget, "className") else widget.metaObject().className()


def _property(widget, name):
    # PySide 6.12 miscounts the references of the None that it returns for a property that is not there.
    return widget.property(name) if widget.metaObject().indexOfProperty(name) >= 0 else None


def _text(widget):
    """What a widget shows, as one line; "" where it shows no text."""
    for name in ("text", "currentText", "title", "plainText"):
        value = _property(widget, name)
        if isinstance(value, str) and value:
            return " ".join(re.sub(r"<[^>]*>", " ", value).replace("&", "").split())
    return ""


def _tree(widget):
    """Every visible widget under one, the outer before the inner; closed sections hide what they hold."""
    for child in widget.children():
        if hasattr(child, "isVisibleTo") and child.isVisibleTo(widget):
            yield child
            yield from _tree(child)


class Follower:
    """Does what the steps say.

    module: title -> the open module's widget
    wait: called with a function, returns when that is true and raises when it never is
    point: makes qt.QPoint(0, 0)
    used: the button or field that was used last
    """

    def __init__(self, module, wait, point):
        self._module, self._wait, self._point = module, wait, point
        self._panel = self._scope = self.used = None

    def follow(self, step):
        self._scope = self._panel
        for kind, words in step.instructions():
            try:
                getattr(self, "_" + kind)(words)
            except TutorialError as error:
                raise TutorialError(f"step {step.number}, {' '.join(words.values())!r}: {error}") from None

    def _open(self, words):
        self._panel = self._scope = self._module(words["open"])

    def _under(self, words):
        sections = [w for w in _tree(self._panel) if "ollapsible" in _class(w)]
        # Where the title is a part of its own, it is a button.
        found = [w for w in sections if words["under"] in (
            _text(w), *(_text(part) for part in w.children() if _class(part) == "QToolButton"))]
        self._scope = self._one(found, f"no section {words['under']}")

    def _end(self, words):
        self._scope = self._panel

    def _press(self, words):
        if words["press"] == "▶":
            return self._play()
        button = self._one([w for w in self._of(BUTTONS) if _text(w) == words["press"]], "no such button")
        # Qt takes click() on a button with a menu for a wish to see the menu, and waits for an answer.
        getattr(self._enabled(button), "toggle" if _class(button) == "qMRMLSegmentationShow3DButton" else "click")()

    def _play(self):
        widget = self._one(self._of({"qMRMLSequenceBrowserPlayWidget"}), "no play buttons")
        inner = [w for w in _tree(widget) if _property(w, "objectName") == "pushButton_VcrPlayPause" or _text(w) == ">"]
        button, slider = self._enabled(self._one(inner, "no play button")), self._days()
        before = _property(slider, "value")
        button.click()
        self._wait(lambda: _property(slider, "value") != before)
        if _property(button, "checked"):
            button.click()

    def _choose(self, words):
        combo, item = self._field(words["choose_field"]), words["choose"]
        if hasattr(combo, "nodeFromIndex"):
            nodes = [combo.nodeFromIndex(i) for i in range(combo.nodeCount())]
            combo.setCurrentNode(self._one([n for n in nodes if n.GetName() == item], f"{item} is not offered"))
            return
        index = combo.findText(item)
        if index < 0:
            raise TutorialError(f"{item} is not offered, only {[combo.itemText(i) for i in range(combo.count)]}")
        combo.setCurrentIndex(index)

    def _write(self, words):
        self._field(words["write_field"]).setText(words["write"])

    def _set(self, words):
        field, number = self._field(words["set_field"]), float(words["set"])
        field.setValue(number)
        if field.value != number:
            raise TutorialError(f"the field takes {field.value} for {number}")

    def _tick(self, words):
        box = self._one([w for w in self._of(CHECKS) if _text(w) == words["tick"]], "no such check box")
        if not _property(self._enabled(box), "checked"):
            box.click()

    def _drag(self, words):
        slider = self._days()
        slider.setValue(_property(slider, "maximum" if words["drag"] == "last" else "minimum"))

    def _days(self):
        return self._one(self._of({"qMRMLSequenceBrowserSeekWidget"}), "no slider of days").slider()

    def _name(self, words):
        if not any(self._reads(w, words["name"]) for w in _tree(self._panel)):
            raise TutorialError("the panel shows no such name")

    def _says(self, words):
        self._wait(lambda: any(words["says"] in _text(w) for w in _tree(self._panel)))

    @staticmethod
    def _reads(widget, name):
        if hasattr(widget, "findText") and widget.findText(name) >= 0:
            return True
        return _text(widget) == name

    def _of(self, classes):
        return [w for w in _tree(self._scope) if _class(w) in classes]

    @staticmethod
    def _one(found, nothing):
        if not found:
            raise TutorialError(nothing)
        if len(found) > 1:
            raise TutorialError(f"{len(found)} of them are visible: name the section with 'under'")
        return found[0]

    def _enabled(self, widget):
        self.used = widget
        if not _property(widget, "enabled"):
            raise TutorialError(f"it is disabled ({_property(widget, 'toolTip')})")
        return widget

    def _field(self, label):
        """The first field to the right of a label."""
        named = self._one([w for w in self._of({"QLabel"}) if _text(w) == label], f"no label {label}")
        left, top, right, bottom = self._box(named)
        middle = (top + bottom) / 2
        beside = []
        for widget in self._of(FIELDS):
            box = self._box(widget)
            if box[0] >= right - 2 and box[1] <= middle <= box[3]:
                beside.append((box[0], -(box[2] - box[0]), len(beside), widget))
        if not beside:
            raise TutorialError(f"no field beside {label}")
        # Of a field and the parts that it is made of, the outer one.
        return self._enabled(min(beside)[3])

    def _box(self, widget):
        corner = widget.mapTo(self._panel, self._point())
        left, top = corner.x(), corner.y()
        return left, top, left + _property(widget, "width"), top + _property(widget, "height")
