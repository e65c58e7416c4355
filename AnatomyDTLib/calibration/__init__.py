"""One patient's twin: calibration, uncertainty, comparison of treatments."""
