"""From recordings to batches: manifest, features, corpus, augmentation."""
