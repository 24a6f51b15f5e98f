"""Tests of mpengine. A package, so that test modules may share `tests.support` and a file name."""
