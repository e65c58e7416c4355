"""Views that wait while the scene changes, and draw one by one."""

import slicer


class HeldViews:
    """The slice and 3D views, paused until each is let go.

    A view that has something to draw does so at once when it is resumed, so that all of them in one turn of the
    interface would be one long wait for the user.
    """

    def __init__(self):
        layout, self._held = slicer.app.layoutManager(), []
        if layout is not None:
            self._held = [layout.threeDWidget(i).threeDView() for i in range(layout.threeDViewCount)]
            self._held += [layout.sliceWidget(name).sliceView() for name in layout.sliceViewNames()]
        for view in self._held:
            view.pauseRender()

    def letOneGo(self):
        """Lets go one that is seen, and the hidden ones before it, which draw nothing; False when none was held."""
        while self._held:
            view = self._held.pop()
            view.resumeRender()
            if view.visible:
                return True
        return False

    def letGo(self):
        """Lets all go at once."""
        while self.letOneGo():
            pass
