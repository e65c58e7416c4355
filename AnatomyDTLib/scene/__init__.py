"""The MRML scene in and out: segmentations, sequences, tables, charts, sequence files.

`slicer` and `vtk` are imported here and nowhere else in the engine. Works in the application and with
the slicer-core package alone; nothing here needs qt, ctk or slicer.app.

    from AnatomyDTLib.scene.forecast import forecast
    result = forecast(segmentationNode, plan, reference=volumeNode)
"""
