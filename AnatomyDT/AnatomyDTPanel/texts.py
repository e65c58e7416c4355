"""The words for what the engine names, and showing the one that is chosen."""

from slicer.i18n import tr as _


def regimeTexts():
    """(text, name) of the standard courses."""
    return [
        (_("No treatment"), "none"), (_("Surgery"), "surgery"), (_("Radiotherapy"), "radiotherapy"),
        (_("Temozolomide"), "temozolomide"), (_("Stupp (radiotherapy and temozolomide)"), "stupp"),
        (_("Surgery, then Stupp"), "surgery+stupp"),
    ]


def modelTexts():
    """(text, name) of what can forecast."""
    return [
        (_("Equation, numbers of the literature"), "mechanistic"), (_("Trained weights (file)"), "weights"), (_("Trained on simulated gliomas"), "glioma-sim"),
        (_("Calibrated twin"), "twin"),
    ]


def growthText(law):
    texts = {
        "hathout-high": _("Fast (Hathout 2016, high)"), "hathout-low": _("Slow (Hathout 2016, low)"),
        "lipkova": _("Medium (Lipkova 2019)"), "swanson-high-grade": _("Diffuse (Swanson 2000)"),
        "plan": _("From the plan file"),
    }
    return texts.get(law, law)


def showChoice(combo, data):
    """Selects the item that carries this, without telling anybody."""
    for index in range(combo.count):
        if combo.itemData(index) == data and combo.currentIndex != index:
            blocked = combo.blockSignals(True)
            combo.setCurrentIndex(index)
            combo.blockSignals(blocked)
