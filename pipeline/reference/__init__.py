"""Reference pages in docs/reference, generated from the code by `make reference`."""
