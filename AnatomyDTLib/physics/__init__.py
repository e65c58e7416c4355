"""The equation and its solution: operators, implicit solves, projection, reaction, treatments, stepping."""
