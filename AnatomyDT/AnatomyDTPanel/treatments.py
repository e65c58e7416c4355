"""The table of treatments and the fields of the one that is selected."""

from __future__ import annotations

import dataclasses

import qt
from slicer.i18n import tr as _

from AnatomyDTLib.plan import Chemotherapy, PlanError, Radiotherapy, Surgery, kind_of

from . import choices

DOSE_MAP = "dose"


def kindTexts():
    return {"surgery": _("Surgery"), "radiotherapy": _("Radiation"), "chemotherapy": _("Drug")}


class TreatmentEditor:
    """Shows treatments; tells `changed(treatments)` when the user edits them, `refused(text)` for a wrong field."""

    def __init__(self, ui, changed, refused):
        self._ui, self._changed, self._refused = ui, changed, refused
        self._treatments, self._selected, self._filling = None, -1, False
        self._regions = []
        for kind, text in kindTexts().items():
            ui.addKindComboBox.addItem(text, kind)
        ui.eventTable.connect("itemSelectionChanged()", self._onSelected)
        ui.addButton.connect("clicked(bool)", lambda checked=False: self._add())
        ui.duplicateButton.connect("clicked(bool)", lambda checked=False: self._duplicate())
        ui.removeButton.connect("clicked(bool)", lambda checked=False: self._remove())
        for name in ("surgeryDay", "surgeryExtent", "surgeryMargin", "surgeryResidual", "radiotherapyDay", "fractions",
                     "dose", "drugRate", "drugHalfLife"):
            getattr(ui, name + "SpinBox").connect("valueChanged(double)", lambda value: self._edited())
        for name in ("surgeryRegion", "doseSource", "radiotherapyRegion"):
            getattr(ui, name + "ComboBox").connect("currentIndexChanged(int)", lambda index: self._edited())
        for name in ("drug", "drugDays", "drugDoses"):
            getattr(ui, name + "LineEdit").connect("editingFinished()", self._edited)
        ui.weekdaysCheckBox.connect("toggled(bool)", lambda checked: self._edited())
        for text, data in ((_("Uniform"), ""), (_("From the dose volume"), DOSE_MAP)):
            ui.doseSourceComboBox.addItem(text, data)
        self.show(())

    def setRegions(self, names):
        """names: of the segments that can be resected or irradiated."""
        self._regions = list(names)
        self._fillFields()

    def show(self, treatments):
        """Shows other treatments; the selection stays where it can."""
        treatments = tuple(treatments)
        if treatments == self._treatments and self._ui.eventTable.rowCount == len(treatments):
            return self._fillFields()
        self._treatments = treatments
        self._selected = min(self._selected, len(treatments) - 1)
        self._fillTable()

    def _fillTable(self):
        table, self._filling = self._ui.eventTable, True
        table.setRowCount(len(self._treatments))
        for row, treatment in enumerate(self._treatments):
            when, what = choices.described(treatment)
            for column, text in enumerate((when, kindTexts()[kind_of(treatment)], what)):
                table.setItem(row, column, qt.QTableWidgetItem(text))
        for column, width in enumerate((70, 88)):
            table.setColumnWidth(column, width)
        if self._selected >= 0:
            table.selectRow(self._selected)
        else:
            table.clearSelection()
        self._filling = False
        self._fillFields()

    def _fillFields(self):
        ui, treatment = self._ui, self._current()
        self._filling = True
        ui.duplicateButton.setEnabled(treatment is not None)
        ui.removeButton.setEnabled(treatment is not None)
        ui.eventEditor.setVisible(treatment is not None)
        if isinstance(treatment, Surgery):
            ui.eventEditor.setCurrentIndex(0)
            ui.surgeryDaySpinBox.setValue(treatment.day)
            self._fillRegions(ui.surgeryRegionComboBox, _("The visible tumor"), treatment.region)
            ui.surgeryExtentSpinBox.setValue(100 * treatment.extent)
            ui.surgeryExtentSpinBox.setEnabled(treatment.region is None and treatment.margin_mm == 0)
            ui.surgeryMarginSpinBox.setValue(treatment.margin_mm)
            ui.surgeryMarginSpinBox.setEnabled(treatment.extent == 1.0)
            ui.surgeryResidualSpinBox.setValue(100 * treatment.residual_fraction)
        elif isinstance(treatment, Radiotherapy):
            ui.eventEditor.setCurrentIndex(1)
            ui.radiotherapyDaySpinBox.setValue(treatment.start_day)
            ui.fractionsSpinBox.setValue(treatment.fractions)
            ui.doseSourceComboBox.setCurrentIndex(0 if treatment.dose_map is None else 1)
            ui.doseSpinBox.setEnabled(treatment.dose_map is None)
            if treatment.dose_gy is not None:
                ui.doseSpinBox.setValue(treatment.dose_gy)
            self._fillRegions(ui.radiotherapyRegionComboBox, _("Everywhere"), treatment.region)
            ui.weekdaysCheckBox.setChecked(treatment.weekdays_only)
        elif isinstance(treatment, Chemotherapy):
            ui.eventEditor.setCurrentIndex(2)
            ui.drugLineEdit.setText(treatment.drug)
            ui.drugDaysLineEdit.setText(choices.days_text(treatment.days))
            ui.drugDosesLineEdit.setText(choices.doses_text(treatment))
            ui.drugRateSpinBox.setValue(treatment.sensitivity_per_day)
            ui.drugHalfLifeSpinBox.setValue(treatment.half_life_day)
        self._filling = False

    def _fillRegions(self, combo, everything, chosen):
        names = list(self._regions) + ([chosen] if chosen and chosen not in self._regions else [])
        combo.clear()
        combo.addItem(everything, "")
        for name in names:
            combo.addItem(name, name)
        combo.setCurrentIndex(names.index(chosen) + 1 if chosen else 0)

    def _current(self):
        return self._treatments[self._selected] if 0 <= self._selected < len(self._treatments) else None

    def _onSelected(self):
        if self._filling:
            return
        self._selected = self._ui.eventTable.currentRow()
        self._fillFields()

    def _add(self):
        kind = self._ui.addKindComboBox.itemData(self._ui.addKindComboBox.currentIndex)
        self._selected = len(self._treatments)
        self._set(self._treatments + (choices.new_treatment(kind),))

    def _duplicate(self):
        copy = choices.moved(self._current(), 7.0)
        self._selected = len(self._treatments)
        self._set(self._treatments + (copy,))

    def _remove(self):
        kept = tuple(t for i, t in enumerate(self._treatments) if i != self._selected)
        self._selected = min(self._selected, len(kept) - 1)
        self._set(kept)

    def _set(self, treatments):
        self._treatments = treatments
        self._fillTable()
        self._refused("")
        self._changed(treatments)

    def _edited(self):
        if self._filling or self._current() is None:
            return
        try:
            edited = self._fromFields(self._current())
        except PlanError as error:
            return self._refused(str(error))
        if edited != self._current():
            self._set(tuple(edited if i == self._selected else t for i, t in enumerate(self._treatments)))
        else:
            self._refused("")

    def _fromFields(self, treatment):
        ui = self._ui

        def chosen(combo):
            return combo.itemData(combo.currentIndex) or None

        if isinstance(treatment, Surgery):
            region, margin = chosen(ui.surgeryRegionComboBox), ui.surgeryMarginSpinBox.value
            whole = region is not None or margin > 0
            return Surgery(
                ui.surgeryDaySpinBox.value, region, 1.0 if whole else ui.surgeryExtentSpinBox.value / 100, margin,
                ui.surgeryResidualSpinBox.value / 100)
        if isinstance(treatment, Radiotherapy):
            fromVolume = bool(chosen(ui.doseSourceComboBox))
            weekdays = ui.weekdaysCheckBox.checked
            # A plan from a file may start on another weekday; that is kept until it cannot be.
            kept = not weekdays or treatment.start_weekday not in ("saturday", "sunday")
            start = treatment.start_weekday if kept else "monday"
            return dataclasses.replace(
                treatment, start_day=ui.radiotherapyDaySpinBox.value, fractions=int(ui.fractionsSpinBox.value),
                dose_gy=None if fromVolume else ui.doseSpinBox.value,
                dose_map=(treatment.dose_map or DOSE_MAP) if fromVolume else None,
                weekdays_only=weekdays, start_weekday=start, region=chosen(ui.radiotherapyRegionComboBox))
        return Chemotherapy(
            ui.drugLineEdit.text.strip(), choices.days_of(ui.drugDaysLineEdit.text), ui.drugRateSpinBox.value,
            ui.drugHalfLifeSpinBox.value, choices.doses_of(ui.drugDosesLineEdit.text))
