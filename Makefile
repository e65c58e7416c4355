# make forecast: the main job on the bundled sample.   make test: the test suite.
# Both create .venv from requirements.txt once; later calls are quick.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
OUT ?= forecast
SAMPLE = AnatomyDT/Resources/SampleData

.PHONY: forecast test slow bench pictures clean

.venv/.done: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

forecast: .venv/.done
	.venv/bin/python -m AnatomyDTLib forecast $(SAMPLE)/sample_baseline.seg.nrrd \
		--plan $(SAMPLE)/plan_stupp.json --out $(OUT)

test: .venv/.done
	.venv/bin/python -m pytest -n 2 --dist loadfile

slow: .venv/.done
	.venv/bin/python -m pytest -m slow -s

bench: .venv/.done
	.venv/bin/python -m AnatomyDTLib bench

# the pictures of the README; those of the tutorial only where SLICER names a Slicer with torch
pictures: forecast
	cp $(OUT)/forecast.png docs/forecast.png
	test -z "$(SLICER)" || ( mkdir -p $(OUT)/steps && \
		"$(SLICER)" --no-splash --additional-module-paths AnatomyDT --python-script Testing/tutorial_pictures.py $(OUT)/steps && \
		.venv/bin/python Testing/tutorial_pictures.py $(OUT)/steps docs/tutorial )

clean:
	rm -rf .venv $(OUT)
