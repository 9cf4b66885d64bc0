"""The Keras C3D as a verified SavedModel for TensorFlow Serving."""

import os

# Keras reads this variable once, at its import. The servable consists of TensorFlow functions, so
# a user's keras.json must not choose another backend.
os.environ["KERAS_BACKEND"] = "tensorflow"
