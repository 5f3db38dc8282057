"""The zoo: networks with image weights, from wherever they are, and the proof that they are the image's."""
