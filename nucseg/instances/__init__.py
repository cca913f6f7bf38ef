"""Pure array functions: arrays in, arrays out (numpy and numba, no files)."""
