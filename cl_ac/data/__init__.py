"""What training runs on: samples, tasks, batches, augmentation, random streams and tensors that grow."""
