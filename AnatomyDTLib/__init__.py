"""AnatomyDTLib: a digital twin of a patient's anatomy. Research software, not a medical device.

    from AnatomyDTLib import forecast, Plan

Importing it takes no time: torch and everything else are imported when they are first used.
"""

__version__ = "0.1.0"

_HOME = {
    "forecast": "engine", "score": "engine", "Forecast": "engine", "ForecastError": "engine", "Cancelled": "engine",
    "Plan": "plan", "PlanError": "plan", "Anatomy": "plan", "Tissue": "plan", "CrossDiffusion": "plan",
    "Surgery": "plan", "Radiotherapy": "plan", "Chemotherapy": "plan",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name):
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(set(globals()) | set(__all__))
