"""The primitives, one file a family. Arrays only: no tensors, no rounding, no policy in sight."""
