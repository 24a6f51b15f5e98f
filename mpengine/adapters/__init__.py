"""Other libraries run their jobs on an engine: a module for each, named like the library. Import the one you need."""
