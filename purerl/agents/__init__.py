"""Algorithms, one file each: config, loss, update. How they act is in `purerl.policies`."""
