"""What has to be installed before something is computed: asked for when it is needed, taken in words when it fails."""

import logging
import traceback
from pathlib import Path

from slicer.i18n import tr as _

from .devices import torch_is_installed

REQUIREMENTS = str(Path(__file__).resolve().parent.parent / "Resources" / "requirements.txt")


class Packages:
    """A part of the logic.

    installationLog: the lines that the last installation which failed left behind
    """

    def __init__(self):
        self.installationLog = []
        self._installing = False

    def ensureDependencies(self, weights=False):
        """Asks for what is not installed; "" when everything is there, else the sentence that the user reads.

        weights: a file of trained weights is to be read
        """
        return self._ensure(("safetensors", "scikit-image") if weights else ())

    def ensureScoringPackages(self):
        """Asks for what a comparison needs beyond a forecast; "" when everything is there, else why not."""
        return self._ensure(("monai", "scikit-image"))

    def _ensure(self, names):
        if self._installing:
            # Slicer answers while it installs, so Apply can be pressed again.
            return _("The packages are being installed: wait until that is done.")
        self._installing, self.installationLog = True, []
        try:
            return self._ensureTorch() or self._ensurePackages(names)
        finally:
            self._installing = False

    def _ensureTorch(self):
        if torch_is_installed():
            return ""
        try:
            import PyTorchUtils
        except ModuleNotFoundError:
            return _(
                "PyTorch is needed: install the PyTorch extension in the Extensions Manager, restart Slicer, "
                "press Apply again."
            )
        try:
            torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=">=2.2")
        except Exception:
            # It passes on whatever pip, the download and the first import of torch raise.
            return self._failed(_("PyTorch could not be installed: is there a network? Nothing was computed; the log says more."))
        if torch is None:
            return _("PyTorch was not installed, so nothing was computed. Press Apply to be asked again.")
        return ""

    def _ensurePackages(self, names):
        """Asks for those of Resources/requirements.txt; "" when they are there, else why not."""
        if not names:
            return ""
        import slicer.packaging

        listed = slicer.packaging.load_requirements(REQUIREMENTS)
        try:
            slicer.packaging.pip_ensure([one for one in listed if one.name in names], requester="AnatomyDT")
        except Exception as error:
            # Declined is a RuntimeError like others of pip_ensure; only its text tells.
            if "declined" in str(error).casefold():
                return _("The packages were not installed, so nothing was computed. Press the button to be asked again.")
            return self._failed(
                _("The packages could not be installed: is there a network? Nothing was computed; the log says more."))
        return ""

    def _failed(self, why):
        logging.exception(why)
        self.installationLog = traceback.format_exc().splitlines()
        return why
