"""What the panel of the AnatomyDT module is made of: the treatments, the tissues, the plan, the run."""
