"""The Keras C3D as a verified SavedModel for TensorFlow Serving."""

import os

# Keras reads this once, at its import. The servable is made of TensorFlow's functions, so a
# different backend in somebody's keras.json must not win.
os.environ["KERAS_BACKEND"] = "tensorflow"
