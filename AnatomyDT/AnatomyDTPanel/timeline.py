"""A small picture of the treatments over the days of a forecast."""

from __future__ import annotations

import qt

from AnatomyDTLib.plan import kind_of

COLORS = {"surgery": (214, 96, 77), "radiotherapy": (230, 171, 2), "chemotherapy": (67, 147, 195)}
HEIGHT = 62


def picture(treatments, horizon, width, textColor, texts):
    """A pixmap: one row per kind of treatment, a mark per event; the axis carries the days.

    textColor: a QColor of the current theme; texts: kind -> the word that the user reads
    """
    pixmap = qt.QPixmap(width, HEIGHT)
    pixmap.fill(qt.QColor(0, 0, 0, 0))
    painter = qt.QPainter(pixmap)
    painter.setPen(textColor)
    left, right = 88, width - 14
    span = max(float(horizon), 1.0)

    def x(day):
        return int(round(left + (right - left) * min(day / span, 1.0)))

    for row, kind in enumerate(COLORS):
        top = 2 + 14 * row
        painter.drawText(0, top + 10, texts[kind])
        for treatment in treatments:
            if kind_of(treatment) != kind:
                continue
            color = qt.QColor(*COLORS[kind])
            for day in treatment.event_days():
                if day <= span:
                    mark = 5 if kind == "surgery" else 2
                    painter.fillRect(x(day) - mark // 2, top + 1, mark, 10, color)
    painter.drawLine(left, 45, right, 45)
    for day in (0.0, span / 2, span):
        painter.drawLine(x(day), 45, x(day), 48)
        text = format(day, ".4g")
        painter.drawText(x(day) - 4 * len(text), 60, text)
    painter.end()
    return pixmap
