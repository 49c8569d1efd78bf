"""The scale model: its world, its training and its judge; the other rooms of the package know nothing of it."""
