"""How the panel looks and is reached: tooltips, labels, the Tab key, 400 pixels, themes, words that can be translated."""

import ast
import re
import string
import xml.etree.ElementTree as ElementTree

import pytest

pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets")

from panel_user import add_segmentation, choose, ready, run, write_twin_header
from PySide6 import QtCore, QtGui, QtWidgets
from slicer_host import MODULE_FOLDER

UI = ElementTree.parse(MODULE_FOLDER / "Resources" / "UI" / "AnatomyDT.ui").getroot()
PYTHON = sorted([MODULE_FOLDER / "AnatomyDT.py", *(MODULE_FOLDER / "AnatomyDTPanel").glob("*.py")])
# Widgets that the user acts on; labels and frames only show.
ACTING = (QtWidgets.QAbstractButton, QtWidgets.QComboBox, QtWidgets.QAbstractSpinBox, QtWidgets.QLineEdit,
          QtWidgets.QAbstractItemView, QtWidgets.QAbstractSlider, QtWidgets.QPlainTextEdit)


def filled(host):
    """The panel with something in every table."""
    ui = host.widget.ui
    ready(host, names=("White matter", "CSF", "Tumor"), days=90)
    add_segmentation(name="Later")
    ui.addFollowUpButton.click()
    choose(ui.regimeComboBox, "surgery+stupp")
    ui.useRegimeButton.click()
    ui.eventTable.selectRow(1)
    host.process()
    return ui


def test_everything_has_a_tooltip(host):
    """Also what is made while the panel runs; a part of a compound widget has its whole's."""
    filled(host)
    panel = host.panel
    for widget in panel.findChildren(QtWidgets.QWidget):
        if not isinstance(widget, ACTING) or not QtWidgets.QWidget.isVisible(widget):
            continue
        found, at = "", widget
        while not found and at is not panel:
            found, at = QtWidgets.QWidget.toolTip(at), QtWidgets.QWidget.parentWidget(at)
        title = isinstance(widget, QtWidgets.QToolButton) or isinstance(widget, QtWidgets.QHeaderView)
        assert found or title, QtCore.QObject.objectName(widget)


def test_every_label_leads_to_its_field_and_no_two_letters_are_alike():
    """A label beside a field is its buddy; Alt and a letter reach one control, and no menu of Slicer's."""
    letters = []
    for form in UI.iter("layout"):
        rows = {}
        for item in form.findall("item"):
            rows.setdefault(item.get("row"), {})[item.get("column")] = item
        for row in rows.values():
            label = row["0"].find("widget[@class='QLabel']") if "0" in row else None
            if label is not None and "1" in row:
                buddy = label.findtext("property[@name='buddy']/cstring")
                assert buddy in {w.get("name") for w in row["1"].iter("widget")}, label.get("name")
    for text in UI.iterfind(".//property[@name='text']/string"):
        letters += re.findall(r"&([A-Za-z])", text.text or "")
    letters = [letter.upper() for letter in letters] + ["A"]
    assert len(letters) == len(set(letters)) and not set(letters) & set("FEVH")


def test_tab_reaches_every_control_in_the_order_of_the_panel(host, tmp_path):
    """From the first selector on, section by section and row by row; what is in a table follows the table."""
    ui = filled(host)
    ui.modelComboBox.setCurrentIndex(1)
    ui.modelFileLineEdit.setCurrentPath(write_twin_header(tmp_path / "w.safetensors", ["Background", "Tumor"], ["background", "tumor"], 2))
    host.process()
    ui.segmentationSelector.setFocus()
    order, at = [], ui.segmentationSelector
    while True:
        following = QtWidgets.QWidget.nextInFocusChain(at)
        at = following
        if at is ui.segmentationSelector or len(order) > 500:
            break
        if QtWidgets.QWidget.isVisible(at) and QtWidgets.QWidget.isEnabled(at):
            if QtWidgets.QWidget.focusPolicy(at) & QtCore.Qt.TabFocus:
                order.append(QtCore.QObject.objectName(at))
    wanted = [
        "referenceSelector", "numberingComboBox", "fillButton", "tissueTable", "tissue0", "tissue1", "tissue2",
        "followUpTable", "followUp0", "followUpDay0", "removeFollowUp0", "addFollowUpButton",
        "regimeComboBox", "useRegimeButton", "regimeStartSpinBox", "eventTable", "addKindComboBox", "addButton",
        "duplicateButton", "removeButton", "radiotherapyDaySpinBox", "fractionsSpinBox", "doseSourceComboBox", "doseSpinBox",
        "radiotherapyRegionComboBox", "weekdaysCheckBox", "regionsSelector", "doseSelector", "loadPlanButton",
        "savePlanButton", "nameLineEdit", "intervalSpinBox", "modelComboBox", "image0", "image1", "growthComboBox",
        "deviceComboBox",
    ]
    assert [name for name in order if name in wanted] == wanted
    for table in (ui.tissueTable, ui.followUpTable, ui.eventTable):
        assert not table.tabKeyNavigation, "a table must not keep the Tab key"


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("state", ["empty", "filled", "weights", "result"])
def test_nothing_is_wider_than_400_pixels(host, state):
    ui = host.widget.ui
    if state != "empty":
        filled(host)
    if state == "weights":
        choose(ui.modelComboBox, "weights")
        ui.modelFileLineEdit.setCurrentPath("/a/very/long/path/" + "that/goes/on/" * 20 + "weights.safetensors")
    if state == "result":
        choose(ui.regimeComboBox, "none")
        ui.useRegimeButton.click()
        ui.horizonSlider.setValue(10)
        run(host, "A forecast with a name that is rather long for a panel of this width")
        ui.logCollapsibleButton.collapsed = False
        ui.advancedCollapsibleButton.collapsed = False
    host.process()
    for page in range(ui.eventEditor.count if state == "filled" else 0):
        ui.eventEditor.setCurrentIndex(page)
        host.process()
        assert QtWidgets.QWidget.minimumSizeHint(host.panel).width() <= 400
    assert QtWidgets.QWidget.minimumSizeHint(host.panel).width() <= 400
    path = host.picture(f"8_width_{state}")
    assert QtGui.QImage(str(path)).width() == 400


def luminance(color):
    parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (color.redF(), color.greenF(), color.blueF())]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one, other):
    """WCAG 2: (L1 + 0.05) / (L2 + 0.05)."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.fixture
def palette(host):
    """palette(background, text): another theme, as Slicer's appearance settings set one."""
    former = host.application.palette()

    def use(background, text):
        made = QtGui.QPalette(QtGui.QColor(background))
        for role in (QtGui.QPalette.WindowText, QtGui.QPalette.Text, QtGui.QPalette.ButtonText):
            made.setColor(role, QtGui.QColor(text))
        made.setColor(QtGui.QPalette.Base, QtGui.QColor(background))
        host.application.setPalette(made)
        host.process()

    yield use
    host.application.setPalette(former)


@pytest.mark.parametrize("theme, background, text", [("light", "#efefef", "#202020"), ("dark", "#303030", "#f0f0f0")])
def test_the_timeline_follows_the_theme(host, palette, theme, background, text):
    """Redrawn when the theme changes while the panel is open; words and marks stand out from the background."""
    from AnatomyDTPanel import timeline

    ui = filled(host)
    palette(background, text)
    picture = ui.timelineLabel.pixmap.toImage()
    found = {QtGui.QColor(picture.pixelColor(x, y)).name() for x in range(picture.width()) for y in range(picture.height())
             if picture.pixelColor(x, y).alpha() == 255}
    assert text in found
    for color in timeline.COLORS.values():
        assert QtGui.QColor(*color).name() in found
        assert contrast(QtGui.QColor(*color), QtGui.QColor(background)) > 1.6
    host.picture(f"9_theme_{theme}")


def test_no_color_or_style_is_written_into_the_panel():
    """Themes are Qt's: no style sheet, no palette, no font."""
    for name in ("styleSheet", "palette", "font"):
        assert UI.find(f".//property[@name='{name}']") is None, name
    for path in PYTHON:
        assert "setStyleSheet" not in path.read_text(encoding="utf-8"), path.name


SPOKEN = {"setText", "setToolTip", "addItem", "setAccessibleName", "say", "setWindowTitle", "setPlaceholderText"}


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.name)
def test_what_the_user_reads_can_be_translated(path):
    """No bare text goes into a widget: it passes through _(), which Slicer's tools collect; and no f-string does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in SPOKEN and node.args:
            first = node.args[0]
            bare = isinstance(first, ast.JoinedStr) or (
                isinstance(first, ast.Constant) and isinstance(first.value, str) and any(c in string.ascii_letters for c in first.value))
            assert not bare, f"{path.name}:{node.lineno}"
        if name == "_" and node.args:
            assert isinstance(node.args[0], ast.Constant), f"{path.name}:{node.lineno}"


def test_a_translation_reaches_the_panel(host, monkeypatch):
    """What passes through _() at run time is what the user reads."""
    import AnatomyDTPanel.forecasting as forecasting

    monkeypatch.setattr(forecasting, "_", lambda text: text.replace("Choose a segmentation.", "Segmentierung auswählen."))
    host.widget.updateApply()
    assert host.widget.ui.applyButton.toolTip == "Segmentierung auswählen."
