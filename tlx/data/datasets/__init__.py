"""Our TFDS builders, one data set a file, written as ArrayRecord without TensorFlow."""
