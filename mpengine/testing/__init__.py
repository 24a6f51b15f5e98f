"""Tools for tests of what is built on the engine, and of the engine itself."""
